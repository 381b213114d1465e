"""A crowd on stage: its world, its hosts by number, and who still wants the image."""

import math
from collections.abc import Sequence
from typing import Final

from beiran.ids import NodeId
from simulations.kernel.chance import stream
from simulations.swarm.blobs import Blob
from simulations.swarm.host import Host
from simulations.swarm.world import World

GOSSIP_S: Final = 1.0  # until others know that a host has an image
SOURCES_MAX: Final = 8  # as many does an agent ask whether they have a blob


class Stage:
    """What operations act on and checkers look at.

    Attributes:
      came_at: when each host began to want the image. wanted: by whom it still is.
      holders: who had the image from elsewhere. liars: who ever flipped a byte.
    """

    def __init__(self, world: World, blobs: Sequence[Blob], link_bytes_per_s: float) -> None:
        self.world = world
        self.blobs = list(blobs)
        self.link_bytes_per_s = link_bytes_per_s
        self.hosts: list[Host] = []
        self.came_at: dict[Host, float] = {}
        self.wanted: dict[Host, None] = {}
        self.holders: set[Host] = set()
        self.liars: set[NodeId] = set()

    @property
    def image_bytes(self) -> int:
        """Bytes of the image."""
        return sum(blob.size_bytes for blob in self.blobs)

    def host(self, number: int) -> Host | None:
        """The host of that number, if there is one."""
        return self.hosts[number] if 0 <= number < len(self.hosts) else None

    def add(self) -> Host:
        """A host more, of which nobody knows yet."""
        rate = self.link_bytes_per_s
        host = self.world.add(up=rate, down=rate)
        self.hosts.append(host)
        return host

    def join(self) -> None:
        """A host more, known to all, that wants the image."""
        host = self.add()
        self.world.tell_members()
        self.pull(host)

    def pull(self, host: Host) -> None:
        """It wants the image from now on."""
        self.came_at.setdefault(host, self.world.now)
        self.wanted[host] = None
        holders = [other for other in self.hosts if self._known_to_have(other, host)]
        random = stream(len(holders), "sources", host.name)
        sources = random.sample(holders, min(SOURCES_MAX, len(holders)))
        self.world.pull(host, self.blobs, sources=sources)

    def have(self, host: Host) -> None:
        """It has the image from now on, if it did not want it."""
        if host not in self.wanted:
            self.holders.add(host)
            self.world.seed(host, self.blobs)

    def unwanted(self, host: Host) -> None:
        """It wants the image no more."""
        self.wanted.pop(host, None)

    def restart(self, host: Host, *, wiped: bool) -> None:
        """It wants the image again, or at last."""
        self.came_at.setdefault(host, self.world.now)
        self.wanted[host] = None
        self.world.restart(host, self.blobs, wiped=wiped)

    def _known_to_have(self, other: Host, host: Host) -> bool:
        """Gossip has told by now that ``other`` has the image whole."""
        if other is host or not other.reachable:
            return False
        known_s = self.world.now - GOSSIP_S
        return other in self.holders or all(
            other.done_at.get(blob.digest, math.inf) < known_s for blob in self.blobs
        )

    def owed(self) -> list[Host]:
        """Who must end with the image: all who want it and can be reached."""
        return [host for host in self.wanted if host.reachable]

    def has(self, host: Host) -> bool:
        """Whether it has all of the image."""
        return all(blob.digest in host.done_at for blob in self.blobs)
