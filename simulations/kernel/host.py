"""Hosts: machines with clocks and ports, and one process of the agent on each.

A process may be *stopped* (nothing runs; inputs wait), *blocked* (it runs, but what it sends and
receives waits, as in Lifeguard's experiments) or *slow* (each input takes time; others wait).
``processes`` moves a host between these states; a workload adds the core that the process runs.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Generic, Protocol, TypeVar

from beiran.gossip.membership.member import Address
from simulations.kernel.links import Queue
from simulations.kernel.time import HostClock
from simulations.kernel.traffic import Traffic

AGENT_PORT: Final = 8888
LAN: Final = "lan"


class Core(Protocol):
    """The inputs of a sans-IO core that the kernel knows. Effects are the workload's."""

    def receive_datagram(self, data: bytes, source: Address, *, now: float) -> list[Any]:
        """Take a datagram that arrived at the local time ``now``. Returns effects."""
        ...

    def advance(self, *, now: float) -> list[Any]:
        """Run the timers that are due. Returns effects."""
        ...

    def next_deadline(self) -> float | None:
        """Return the local time of the next timer, if any."""
        ...


@dataclass(eq=False, slots=True, kw_only=True)
class Host:
    """One machine and the process on it.

    Attributes:
      number: its index in ``World.hosts``; operations name hosts by it.
      lan: its broadcast domain.
      node: the core of the present process, or of the last one.
      path_random: randomness of the packets that it sends.
      life: processes that have run here, the present one included.
      running: whether a process exists (it may be stopped or blocked).
      up: whether machine and cable are on; a host that is not is silent.
      busy_until: when the process is done with the input it handles.
      wakes_at: virtual time for which the next wake-up is planned.
      inbox: inputs that wait, with their sizes in bytes. outbox: effects held back by a block.
      hampered: whether inputs must wait.
      refused_at: when it last sent "port unreachable", by the number of the host that got it.
    """

    number: int
    name: str
    address: Address
    node: Core
    path_random: Random
    traffic: Traffic
    lan: str = LAN
    clock: HostClock = field(default_factory=HostClock)
    life: int = 1
    running: bool = True
    up: bool = True
    stopped_until: float | None = None
    blocked_until: float | None = None
    cost_s: float = 0.0
    busy_until: float = 0.0
    wakes_at: float = math.inf
    uplink: Queue = field(default_factory=Queue)
    downlink: Queue = field(default_factory=Queue)
    inbox: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=deque)
    inbox_bytes: int = 0
    outbox: list[Any] = field(default_factory=list)
    hampered: bool = False
    refused_at: dict[int, float] = field(default_factory=dict)

    @property
    def online(self) -> bool:
        """Whether machine and process are there."""
        return self.running and self.up

    def note_hampered(self) -> None:
        """Update ``hampered`` after one of the states that it follows from has changed."""
        self.hampered = (
            self.stopped_until is not None
            or self.blocked_until is not None
            or self.cost_s > 0.0
            or bool(self.inbox)
        )


H = TypeVar("H", bound=Host)


class Machines(Generic[H]):
    """All hosts of a world, by number, address and LAN."""

    def __init__(self) -> None:
        self.hosts: Final[list[H]] = []
        self._by_address: Final[dict[Address, H]] = {}
        self._lans: Final[dict[str, list[H]]] = {}

    def add(self, host: H) -> None:
        """Take in a new host, whose number must be the next one."""
        assert host.number == len(self.hosts)
        self.hosts.append(host)
        self._by_address[host.address] = host
        self._lans.setdefault(host.lan, []).append(host)

    def at(self, address: Address) -> H | None:
        """Return the host with this address, on or off."""
        return self._by_address.get(address)

    def on_lan(self, lan: str) -> list[H]:
        """Return all hosts of a broadcast domain."""
        return self._lans[lan]

    def move(self, host: H, address: Address) -> None:
        """Give a host another address, which no other host may have."""
        del self._by_address[host.address]
        host.address = address
        self._by_address[address] = host

    def free_address(self) -> Address:
        """Return an address that no host has."""
        number = len(self.hosts)
        while address_of(number) in self._by_address:
            number += 1
        return address_of(number)


def address_of(number: int) -> Address:
    """Return the address that the host ``number`` begins with."""
    return Address(f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}", AGENT_PORT)
