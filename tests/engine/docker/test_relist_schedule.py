"""When an engine is asked for its whole list again."""

from math import inf

from beiran.engine.docker.relist_schedule import ListSchedule


def listed(*, at: float = 100.0, took: float = 0.1) -> ListSchedule:
    """A schedule after its first list."""
    schedule = ListSchedule(300.0)
    schedule.start(at - took)
    schedule.end(at)
    return schedule


def test_list_is_due_after_its_period_and_told_as_a_whole() -> None:
    schedule = listed()
    assert schedule.due_at == 400
    schedule.start(400)
    assert schedule.due_at == inf
    assert not schedule.take_whole()
    schedule.end(400.1)
    assert schedule.take_whole()
    assert not schedule.take_whole()


def test_need_is_due_at_once_but_not_before_the_pause_after_a_list() -> None:
    schedule = listed(took=0.1)
    schedule.need(110)
    assert schedule.due_at == 110
    schedule.start(110)
    schedule.end(112)
    schedule.need(113)
    assert schedule.due_at == 112 + 20 * 2
    schedule.start(152)
    schedule.end(152.1)
    assert not schedule.take_whole()


def test_hints_in_a_row_are_followed_by_one_list() -> None:
    schedule = listed()
    schedule.hint(110)
    assert schedule.due_at == 110.5
    schedule.hint(110.4)
    assert schedule.due_at == 110.9
    for tenths in range(1104, 1200):
        schedule.hint(tenths / 10)
    assert schedule.due_at == 115


def test_hint_during_a_list_is_followed_by_another() -> None:
    schedule = listed()
    schedule.start(110)
    schedule.hint(110.01)
    assert schedule.due_at == inf
    schedule.end(110.02)
    assert schedule.due_at == 110.51


def test_pause_is_never_longer_than_the_period() -> None:
    schedule = listed(at=100, took=60)
    schedule.need(101)
    assert schedule.due_at == 400
