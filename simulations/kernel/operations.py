"""Operations: what is done to a world at one moment, as values that print as Python.

    At(3.0, Crash(2))

An operation that makes no sense when its time comes (killing a process that does not run) does
nothing, so a list of operations stays valid when any of them is left out. Each workload has its
own operations; a fault that is new to the kernel becomes one there.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Generic, TypeVar

from simulations.kernel.notation import call_text

WorldIn = TypeVar("WorldIn", contravariant=True)


class Operation(Generic[WorldIn]):
    """Something that is done to a world (or to what a workload plays on) at one moment.

    Attributes:
      disturbs: whether hosts, or the network between them, are worse off afterwards. What follows
        is not the fault of the members for a while.
    """

    disturbs: ClassVar[bool] = True

    def apply(self, world: WorldIn, /) -> None:
        """Do it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return call_text(self)


AnyOperation = TypeVar("AnyOperation", covariant=True)


@dataclass(frozen=True, slots=True)
class At(Generic[AnyOperation]):
    """An operation and its time, in seconds after the start."""

    at_s: float
    do: AnyOperation

    def __repr__(self) -> str:
        return f"At({self.at_s!r}, {self.do!r})"


def operations_in(module: ModuleType) -> dict[str, type]:
    """Return the operations of a module and ``At``, by name, to read scenarios with."""
    return {
        name: made
        for name, made in vars(module).items()
        if isinstance(made, type) and (issubclass(made, Operation) or made is At)
    }
