"""Sets of ranges, against sets of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from beiran.cache.byte_ranges import RangeSet

SPAN = st.tuples(st.integers(0, 40), st.integers(0, 40))


@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), SPAN), max_size=30), SPAN)
def test_ranges_are_what_a_set_of_numbers_is(
    changes: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    ranges, numbers = RangeSet(), set[int]()
    for change, (start, end) in changes:
        if change == "add":
            ranges.add(start, end)
            numbers |= set(range(start, end))
        else:
            ranges.remove(start, end)
            numbers -= set(range(start, end))
        pairs = list(ranges)
        assert {number for first, last in pairs for number in range(first, last)} == numbers
        assert all(first < last for first, last in pairs)
        assert all(before[1] < after[0] for before, after in pairwise(pairs))
        assert ranges.total == len(numbers)
        assert bool(ranges) == bool(numbers)
    start, end = asked
    wanted = set(range(start, end))
    assert ranges.prefix == next(n for n in range(100) if n not in numbers)
    assert ranges.end_from(start) == next(n for n in range(start, 100) if n not in numbers)
    assert ranges.overlaps(start, end) == bool(wanted & numbers)
    assert not wanted or ranges.covers(start, end) == (wanted <= numbers)
