"""Happenings: faults of hosts as values. Traces print them, and records match on them."""

from dataclasses import dataclass

from beiran.gossip.membership.member import Address
from beiran.ids import NodeId


@dataclass(frozen=True, slots=True)
class Started:
    """A process begins on the host."""

    node: NodeId
    generation: int

    def __str__(self) -> str:
        return f"starts as {self.node.hex()} generation {self.generation}"


@dataclass(frozen=True, slots=True)
class Restarted:
    """A later process is about to begin; ``Started`` follows."""

    def __str__(self) -> str:
        return "starts again"


@dataclass(frozen=True, slots=True)
class Killed:
    """kill -9: the kernel closes the process's sockets."""

    def __str__(self) -> str:
        return "is killed"


@dataclass(frozen=True, slots=True)
class PoweredOff:
    """The machine is gone; nothing closes its connections."""

    def __str__(self) -> str:
        return "is off"


@dataclass(frozen=True, slots=True)
class Leaving:
    """SIGTERM: the agent announces that it leaves."""

    def __str__(self) -> str:
        return "leaves"


@dataclass(frozen=True, slots=True)
class Stopped:
    """SIGSTOP, and SIGCONT ``seconds`` later."""

    seconds: float

    def __str__(self) -> str:
        return f"is stopped for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Blocked:
    """All that the process sends and receives is held back for ``seconds``."""

    seconds: float

    def __str__(self) -> str:
        return f"is blocked for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Slowed:
    """Each input takes the process ``cost_s`` from now on."""

    cost_s: float

    def __str__(self) -> str:
        return f"takes {self.cost_s:g} s for each input"


@dataclass(frozen=True, slots=True)
class Moved:
    """The host has another address."""

    address: Address

    def __str__(self) -> str:
        return f"moves to {self.address}"


Happening = (
    Started
    | Restarted
    | Killed
    | PoweredOff
    | Leaving
    | Stopped
    | Blocked
    | Slowed
    | Moved
)  # fmt: skip
