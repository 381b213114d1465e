"""The part of a core's context that both cores have: time, chance, timers, effects, counters.

A sans-IO core takes inputs and returns effects. Its parts share one context for the length of an
input: a part reads the time and random numbers from it, sets timers, and emits effects, which the
core hands back at the end of the input. ``beiran.gossip.context`` and ``beiran.swarm.context``
each derive their own from it and name two unions: of timers and of effects.
"""

from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from beiran.sansio.timers import Timers

if TYPE_CHECKING:
    from random import Random

Timer = TypeVar("Timer", bound=Hashable)
Effect = TypeVar("Effect")


class CoreContext(Generic[Timer, Effect]):
    """Shared by the parts of one core. Nothing in a core is global.

    ``Timer`` is a union of small frozen structs, one class for each thing that can become due
    (``ProbeDue``, ``SuspicionDue(node)``). The core handles it by an exhaustive ``match`` that
    ends in ``assert_never``, so that mypy reports a timer without a handler.

    Attributes:
      random: the only source of chance: handed in, so that a seed repeats a run.
      now: the time of the input being handled, in seconds on a clock that never goes backwards.
      timers: what is due when.
      counters: how often each thing happened since the start, for operators.
    """

    def __init__(self, random: "Random", now: float) -> None:
        self.random = random
        self.now = now
        self.timers: Timers[Timer] = Timers()
        self.counters: Counter[str] = Counter()
        self._effects: list[Effect] = []

    def emit(self, effect: Effect) -> None:
        """Add an effect to those that this input returns."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects emitted since the last call, in order, and begin a new list."""
        effects, self._effects = self._effects, []
        return effects

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        """Make ``timer`` due in ``delay_s`` seconds. An equal timer that is set moves there."""
        self.timers.set(timer, self.now + delay_s)

    def set_timer_no_later(self, timer: Timer, delay_s: float) -> None:
        """Make ``timer`` due in ``delay_s`` seconds, unless it is set to be due earlier."""
        at = self.timers.deadline(timer)
        if at is None or at > self.now + delay_s:
            self.timers.set(timer, self.now + delay_s)

    def cancel_timer(self, timer: Timer) -> None:
        """Take back a timer, if it is set."""
        self.timers.cancel(timer)

    def count_sent(self, data: bytes) -> None:
        """Count a datagram that is handed to the driver."""
        self.counters["datagrams_sent"] += 1
        self.counters["datagram_bytes_sent"] += len(data)
