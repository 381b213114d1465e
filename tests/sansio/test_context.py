"""What both cores' contexts have in common."""

from random import Random

import pytest
from msgspec import Struct

from beiran.sansio.context import CoreContext


class ProbeDue(Struct, frozen=True):
    pass


class SuspicionDue(Struct, frozen=True):
    node: int


@pytest.fixture
def context() -> CoreContext[ProbeDue | SuspicionDue, str]:
    return CoreContext(Random(1), now=10.0)


Context = CoreContext[ProbeDue | SuspicionDue, str]


def test_a_timer_that_is_set_again_moves(context: Context) -> None:
    context.set_timer(SuspicionDue(1), 5.0)
    context.set_timer(SuspicionDue(1), 9.0)
    context.set_timer(SuspicionDue(2), 7.0)
    assert context.timers.pop_due(100.0) == SuspicionDue(2)
    assert context.timers.pop_due(100.0) == SuspicionDue(1)
    assert context.timers.pop_due(100.0) is None


def test_set_timer_no_later_keeps_an_earlier_deadline(context: Context) -> None:
    context.set_timer_no_later(ProbeDue(), 5.0)
    context.set_timer_no_later(ProbeDue(), 9.0)
    assert context.timers.deadline(ProbeDue()) == 15.0
    context.set_timer_no_later(ProbeDue(), 1.0)
    assert context.timers.deadline(ProbeDue()) == 11.0


def test_a_timer_that_is_cancelled_never_comes(context: Context) -> None:
    context.set_timer(ProbeDue(), 1.0)
    context.cancel_timer(ProbeDue())
    context.cancel_timer(SuspicionDue(1))  # never set: no error
    assert context.timers.next_deadline() is None


def test_effects_are_taken_once_and_in_order(context: Context) -> None:
    context.emit("first")
    context.emit("second")
    assert context.take_effects() == ["first", "second"]
    assert context.take_effects() == []
