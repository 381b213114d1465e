"""A network: how long packets take, which are lost, and who reaches whom.

Everything here is a rule; ``World`` sends the packets. A datagram's way is: the sender's uplink
(rate, queue), the path (cuts, loss, duplication, latency, reordering), the receiver's downlink.
Loss is that of a datagram's whole way, once. TCP loses the same packets and sends them again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Protocol

from beiran.gossip.config import DATAGRAM_BYTES_MAX

ETHERNET_MTU: Final = 1500
IP_UDP_BYTES: Final = 28  # the IPv4 and UDP heads, which count against the MTU
UDP_OVERHEAD_BYTES: Final = 42  # with the Ethernet head, as interface counters count
TCP_PACKET_BYTES: Final = 66  # Ethernet, IPv4, TCP with timestamps
TCP_PAYLOAD_BYTES: Final = 1448
TCP_HANDSHAKE_PACKETS: Final = 3  # and as many to close
HTTP_HEAD_BYTES: Final = 130  # of a request or a reply of ours, about

assert DATAGRAM_BYTES_MAX + IP_UDP_BYTES <= ETHERNET_MTU


class Latency(Protocol):
    """How long one packet takes one way."""

    def draw(self, random: Random) -> float:
        """Seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Evenly between two times."""

    low_s: float
    high_s: float

    def draw(self, random: Random) -> float:
        """Seconds."""
        return self.low_s + (self.high_s - self.low_s) * random.random()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Most about the median, few much later: a network with other traffic.

    ``sigma`` 0.5 puts the 99th percentile at 3.2 medians, 1.0 at 10.
    """

    median_s: float
    sigma: float

    def draw(self, random: Random) -> float:
        """Seconds."""
        return self.median_s * float(random.lognormvariate(0.0, self.sigma))


@dataclass(frozen=True, slots=True)
class Link:
    """The way between two hosts.

    Attributes:
      loss: share of datagrams that never come.
      duplication: share that comes twice.
      reordering: share that comes up to ``reorder_s`` later than it would.
      mtu: larger IP packets are dropped, as with "don't fragment".
    """

    latency: Latency = Uniform(0.0005, 0.0015)
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reorder_s: float = 0.05
    mtu: int = ETHERNET_MTU


@dataclass(frozen=True, slots=True)
class Port:
    """A host's connection to its switch, one way.

    Attributes:
      bits_per_s: 0 is as fast as you like.
      queue_s: packets that would wait longer than this are dropped.
    """

    bits_per_s: float = 0.0
    queue_s: float = 0.1


@dataclass(slots=True)
class Queue:
    """What waits at a port: it is free again at ``free_at``."""

    port: Port = Port()
    free_at: float = 0.0

    def wait_s(self, size_bytes: int, now: float) -> float | None:
        """How long a packet takes to be through, or None if it is dropped."""
        if not self.port.bits_per_s:
            return 0.0
        start = max(now, self.free_at)
        if start - now > self.port.queue_s:
            return None
        self.free_at = start + 8 * size_bytes / self.port.bits_per_s
        return self.free_at - now


class Network:
    """Who reaches whom, and how. Hosts are their numbers here.

    Attributes:
      link: between any two hosts without a link of their own (``set_link``).
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._links: dict[tuple[int, int], Link] = {}
        self._sides: dict[int, int] = {}
        self._cut: dict[tuple[int, int], None] = {}
        self.changed: Final[list[Callable[[str], None]]] = []
        """Told what was changed, in words."""
        self.intact = True
        """Whether everybody reaches everybody by the same link: the quick case."""

    def change(self, **changes: object) -> None:
        """Change the default link: ``change(loss=0.1)``."""
        self.link = replace(self.link, **changes)  # type: ignore[arg-type]
        self._tell(" ".join(f"{name} {value}" for name, value in changes.items()))

    def set_link(self, source: int, target: int, link: Link | None) -> None:
        """Give one direction between two hosts a link of its own; None takes it back."""
        if link is None:
            self._links.pop((source, target), None)
        else:
            self._links[source, target] = link
        self._note()

    def between(self, source: int, target: int) -> Link:
        """The link from one host to another."""
        return self._links.get((source, target), self.link)

    def partition(self, *groups: list[int]) -> None:
        """Split the network: who is in no group is with the first."""
        self._sides = {host: side for side, group in enumerate(groups) for host in group}
        self._note()
        self._tell(f"falls apart into {len(groups)}")

    def cut(self, source: int, target: int) -> None:
        """Nothing gets from ``source`` to ``target`` any more; the way back stays."""
        self._cut[source, target] = None
        self._note()
        self._tell(f"loses the way from h{source} to h{target}")

    def mend(self, source: int, target: int) -> None:
        """Undo ``cut``."""
        self._cut.pop((source, target), None)
        self._note()
        self._tell(f"has the way from h{source} to h{target} again")

    def heal(self) -> None:
        """Undo every ``partition`` and ``cut``."""
        self._sides.clear()
        self._cut.clear()
        self._note()
        self._tell("is whole")

    def passes(self, source: int, target: int) -> bool:
        """Whether packets get from one host to another at all."""
        if self.intact:
            return True
        if self._sides.get(source, 0) != self._sides.get(target, 0):
            return False
        return (source, target) not in self._cut

    def _tell(self, what: str) -> None:
        for callback in self.changed:
            callback(what)

    def _note(self) -> None:
        self.intact = not (self._links or self._sides or self._cut)
