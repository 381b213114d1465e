"""When an engine is asked for its whole list again, which may cost it much."""

from math import inf
from typing import Final

SOON_S: Final = 0.5
"""How long after the last hint all is listed. The steps of a build come in between."""
SOON_S_MAX: Final = 5.0
"""How long after the first hint that is, when hints go on and on."""
PAUSES: Final = 20.0
"""A list is followed by a pause so many times as long as it took: at most 5 % of the time."""


class ListSchedule:
    """The time of the next list. All times are seconds of one clock.

    Args:
      period_s: after this long there is a list in any case, and all of it is told.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._period_at = inf
        self._need_at = inf
        self._hint_at = inf
        self._hint_by = inf
        self._free_at = 0.0
        self._started_at = inf
        self._whole = False

    @property
    def due_at(self) -> float:
        """When to list; never while there is a list under way."""
        if self._started_at != inf:
            return inf
        return max(min(self._period_at, self._need_at, self._hint_at), self._free_at)

    def need(self, now: float) -> None:
        """Only a list can tell what happened."""
        self._need_at = min(self._need_at, now)

    def hint(self, now: float) -> None:
        """Something may have happened. Hints in a row are followed by one list."""
        if self._hint_at == inf:
            self._hint_by = now + SOON_S_MAX
        self._hint_at = min(now + SOON_S, self._hint_by)

    def start(self, now: float) -> None:
        """A list begins, and answers all that was asked up to now."""
        self._whole = self._whole or now >= self._period_at
        self._started_at = now
        self._period_at = self._need_at = self._hint_at = inf

    def end(self, now: float) -> None:
        """The list is there."""
        self._free_at = now + min(PAUSES * (now - self._started_at), self._period_s)
        self._period_at = now + self._period_s
        self._started_at = inf

    def take_whole(self) -> bool:
        """Whether a list that was due by its period is there, once."""
        if self._started_at != inf:
            return False
        whole, self._whole = self._whole, False
        return whole
