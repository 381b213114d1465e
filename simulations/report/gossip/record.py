"""The record of a cluster's run: plain data that is written, read again and drawn.

Times are virtual seconds since the world began.
"""

from pathlib import Path
from typing import Final

import msgspec

from simulations.report.record import read_packed, write_packed

FILE: Final = "record.json.z"


class News(msgspec.Struct, frozen=True):
    """A change of one host's holdings, and when others learned of it.

    Attributes:
      public: other hosts that were online at ``at``.
      after_s: how long after ``at`` each of them knew, in order.
    """

    owner: int
    at: float
    public: int
    after_s: list[float]


class Failure(msgspec.Struct, frozen=True):
    """A host that failed, and when others detected it.

    Attributes:
      how: ``killed`` or ``off``.
      witnesses: other hosts that were online at ``at``.
      suspected_s: until the first of them suspected it; None if none did before its verdict.
      down_s: until each of them held it for down, in order.
    """

    host: int
    at: float
    how: str
    witnesses: int
    suspected_s: float | None
    down_s: list[float]


class FalseVerdict(msgspec.Struct, frozen=True):
    """A verdict on a host that runs and that the observer can reach.

    Attributes:
      hampered: whether the observer was stopped, blocked or slow, or had been shortly before.
    """

    at: float
    observer: int
    subject: int
    hampered: bool


class Mark(msgspec.Struct, frozen=True):
    """A fault or another operation; ``host`` is -1 for the network."""

    at: float
    host: int
    text: str


class Sample(msgspec.Struct, frozen=True):
    """The cluster at one moment; traffic since the sample before.

    Attributes:
      online: hosts whose agent runs.
      suspected: pairs of a host and one that it suspects.
      missed: pairs of a host and one that it holds for down or left.
      sent_bytes: least, median, 99th percentile and most of all hosts.
      by_kind: packets and bytes of all hosts, by kind.
    """

    at: float
    online: int
    suspected: int
    missed: int
    sent_bytes: tuple[int, float, float, int]
    by_kind: dict[str, tuple[int, int]]


class Span(msgspec.Struct, frozen=True):
    """The state of a host, or its state as others saw it, over some time.

    Attributes:
      state: ``stopped``, ``off``, … are true states; ``suspect``, ``down``, ``left`` are those
        that the largest share of the others saw.
      share: of the others that saw it so.
    """

    host: int
    start: float
    end: float
    state: str
    share: float = 1.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
      about: its parameters, as text.
      truth: spans in which hosts were not well.
      seen: spans in which a host was not alive for all others.
    """

    title: str
    about: dict[str, str]
    hosts: int
    seconds: float
    steps: int
    news: list[News]
    failures: list[Failure]
    false_verdicts: list[FalseVerdict]
    marks: list[Mark]
    samples: list[Sample]
    truth: list[Span]
    seen: list[Span]
    dropped: dict[str, int]
    sent_by_host: list[int]
    left_out: int = 0
    """Updates that were not kept because there were too many."""

    def write(self, folder: Path) -> None:
        """Write the record as one file into a folder."""
        write_packed(self, folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Read the record in a folder. Raises: SettingsError if there is none."""
        return read_packed(folder / FILE, cls)
