"""Links: how long a packet takes from one host to another, and whether it arrives.

A datagram passes the sender's port (rate, queue), the link (loss, MTU, latency, reordering,
duplication), and the receiver's port. The loss of a link is that of the whole way, applied once.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

ETHERNET_MTU: Final = 1500
IP_UDP_BYTES: Final = 28  # IPv4 and UDP headers, which count against the MTU
UDP_OVERHEAD_BYTES: Final = 42  # those and the Ethernet header, as interface counters count


class Latency(Protocol):
    """A distribution of one-way delays."""

    def draw(self, random: Random) -> float:
        """Return the delay of one packet in seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Delays evenly between two values."""

    low_s: float
    high_s: float

    def draw(self, random: Random) -> float:
        """Return the delay of one packet in seconds."""
        return self.low_s + (self.high_s - self.low_s) * random.random()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Delays near a median with a long tail: a network that carries other traffic.

    With ``sigma`` 0.5 the 99th percentile is 3.2 medians, with 1.0 it is 10.
    """

    median_s: float
    sigma: float

    def draw(self, random: Random) -> float:
        """Return the delay of one packet in seconds."""
        return self.median_s * float(random.lognormvariate(0.0, self.sigma))


@dataclass(frozen=True, slots=True)
class Link:
    """The link between two hosts, one direction.

    Attributes:
      loss: share of datagrams that are lost.
      duplication: share that arrives twice.
      reordering: share that is delayed by up to ``reorder_s`` more.
      mtu: larger IP packets are dropped, as with "don't fragment".
    """

    latency: Latency = Uniform(0.0005, 0.0015)
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reorder_s: float = 0.05
    mtu: int = ETHERNET_MTU

    def deliveries(self, random: Random) -> tuple[float, ...]:
        """Return the delay of each copy of a datagram that arrives, in seconds; none if lost."""
        if self.loss and random.random() < self.loss:
            return ()
        delay_s = self.latency.draw(random)
        if self.reordering and random.random() < self.reordering:
            delay_s += self.reorder_s * random.random()
        if self.duplication and random.random() < self.duplication:
            return delay_s, self.latency.draw(random) + self.latency.draw(random)
        return (delay_s,)


@dataclass(frozen=True, slots=True)
class Port:
    """A host's connection to its switch, one direction.

    Attributes:
      bits_per_s: 0 is unlimited.
      queue_s: a packet that would wait longer is dropped.
    """

    bits_per_s: float = 0.0
    queue_s: float = 0.1


@dataclass(slots=True)
class Queue:
    """The packets that wait at a port, as the time at which the port is free again."""

    port: Port = Port()
    free_at: float = 0.0

    def wait_s(self, size_bytes: int, now: float) -> float | None:
        """Return how long a packet takes to pass the port, or None if it is dropped."""
        if not self.port.bits_per_s:
            return 0.0
        start = max(now, self.free_at)
        if start - now > self.port.queue_s:
            return None
        self.free_at = start + 8 * size_bytes / self.port.bits_per_s
        return self.free_at - now
