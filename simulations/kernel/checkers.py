"""Checkers: invariants that hold in every run, and the first that did not hold in one."""

import traceback
from dataclasses import dataclass
from pathlib import Path

from simulations.kernel.time import VirtualTime


@dataclass(frozen=True)
class Violation:
    """An invariant that did not hold.

    Attributes:
      invariant: its name; shrinking keeps it.
      at_s: virtual seconds since the world began.
    """

    invariant: str
    at_s: float
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at_s:.3f} s: {self.text}"


class Checkers:
    """The invariants of one run. Each workload subclasses this with its own.

    Attributes:
      violation: the first that did not hold, or None.
    """

    def __init__(self, time: VirtualTime) -> None:
        self.violation: Violation | None = None
        self._time = time
        self._began = time.now

    def fail(self, invariant: str, text: str) -> None:
        """Note a violation, if it is the first."""
        if self.violation is None:
            self.violation = Violation(invariant, self._time.now - self._began, text)

    def fail_for(self, error: Exception) -> None:
        """Note that a core raised: a violation like any other, which can be shrunk."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        self.fail("the core raised", f"{type(error).__name__}: {error} ({place})")
