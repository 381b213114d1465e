"""A set of byte offsets, kept as sorted ranges that neither overlap nor touch."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A set of numbers from 0 up, kept as ranges ``start`` (included) to ``end`` (excluded)."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def total(self) -> int:
        """How many numbers the set has."""
        return sum(self._ends) - sum(self._starts)

    @property
    def prefix(self) -> int:
        """The first number that the set lacks."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def add(self, start: int, end: int) -> None:
        """Add a range; parts of it may be in the set already."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)  # the first that overlaps or touches
        last = bisect_right(self._starts, end)  # one after the last that does
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Remove a range; parts of it may be missing already."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        left, right = self._starts[first], self._ends[last - 1]
        rest = [pair for pair in ((left, start), (end, right)) if pair[0] < pair[1]]
        self._starts[first:last] = [pair[0] for pair in rest]
        self._ends[first:last] = [pair[1] for pair in rest]

    def covers(self, start: int, end: int) -> bool:
        """Whether the set has all of a range."""
        return self.end_from(start) >= end

    def end_from(self, start: int) -> int:
        """The first number from ``start`` up that the set lacks."""
        index = bisect_right(self._starts, start) - 1
        return max(start, self._ends[index]) if index >= 0 else start

    def overlaps(self, start: int, end: int) -> bool:
        """Whether the set has any part of a range."""
        return start < end and bisect_right(self._ends, start) < bisect_left(self._starts, end)
