"""A member as a value: its address, its life, its status, and the precedence of facts about it.

``merge_rule`` says which fact wins; ``member_table`` keeps the members.
"""

import ipaddress
from enum import IntEnum
from typing import Final, NamedTuple, Self

from msgspec import Struct

from beiran.api.models import NodeState
from beiran.ids import NodeId

_STATES: Final[tuple[NodeState, ...]] = ("alive", "suspect", "down", "left")


class Address(NamedTuple):
    """Where an agent is reached: gossip on UDP and HTTP on TCP share the port."""

    host: str
    """An IPv4 or IPv6 address in its canonical text form, never a name."""
    port: int

    @classmethod
    def unpacked(cls, host: bytes, port: int) -> Self:
        """The address whose host is these 4 or 16 bytes. Raises: ValueError for other lengths."""
        return cls(str(ipaddress.ip_address(host)), port)

    @property
    def packed_host(self) -> bytes:
        """The host in 4 or 16 bytes, as messages have it."""
        return ipaddress.ip_address(self.host).packed

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Status(IntEnum):
    """What is known of a member. Of two facts about one life the larger number wins."""

    ALIVE = 0
    SUSPECT = 1
    DOWN = 2
    LEFT = 3

    @property
    def online(self) -> bool:
        """Whether listings show the member as online: a suspect still is."""
        return self <= Status.SUSPECT

    @property
    def state(self) -> NodeState:
        """The word for it in listings."""
        return _STATES[self.value]


class Member(Struct, frozen=True):
    """A node as the membership protocol sees it. Never changed in place: a newer one replaces it.

    Attributes:
      generation: grows at each start of its agent, never below the wall clock's seconds then.
      incarnation: grows when the member refutes a suspicion; 0 at the start of a generation.
    """

    node: NodeId
    name: str
    address: Address
    generation: int
    incarnation: int
    status: Status

    @property
    def life(self) -> tuple[int, int]:
        """Generation and incarnation: only the member itself begins a new one."""
        return (self.generation, self.incarnation)

    @property
    def precedence(self) -> tuple[int, int, int]:
        """Of two facts about one node, the one with the larger precedence is the newer."""
        return (self.generation, self.incarnation, self.status)
