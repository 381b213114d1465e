"""The pull of one image by a crowd: the hosts of a swarm world, and which of them want it.

Operations act on it and checkers read it.
"""

import math
from collections.abc import Sequence
from typing import Final

from beiran.ids import NodeId
from simulations.kernel.chance import stream
from simulations.swarm.blobs import Blob
from simulations.swarm.host import Host
from simulations.swarm.world import World

GOSSIP_S: Final = 1.0  # until others know that a host has an image
SOURCES_MAX: Final = 8  # holders that an agent names to its core, as in beiran/transfer


class ImagePull:
    """An image and the hosts of a world that want it.

    Attributes:
      came_at: when each host began to want the image.
      wanted: hosts that still want it.
      holders: hosts that had the image from elsewhere.
      liars: agents that ever flipped a byte.
    """

    def __init__(self, world: World, blobs: Sequence[Blob], link_bytes_per_s: float) -> None:
        self.world = world
        self.blobs = list(blobs)
        self.link_bytes_per_s = link_bytes_per_s
        self.came_at: dict[Host, float] = {}
        self.wanted: dict[Host, None] = {}
        self.holders: set[Host] = set()
        self.liars: set[NodeId] = set()

    @property
    def hosts(self) -> list[Host]:
        """All hosts, by number."""
        return self.world.hosts

    @property
    def image_bytes(self) -> int:
        """Size of the image."""
        return sum(blob.size_bytes for blob in self.blobs)

    def add(self) -> Host:
        """Add a host that no other knows yet."""
        return self.world.add(up=self.link_bytes_per_s, down=self.link_bytes_per_s)

    def join(self) -> None:
        """Add a host that all know, and that wants the image."""
        host = self.add()
        self.world.update_members()
        self.want(host)

    def want(self, host: Host) -> None:
        """Let a host want the image from now on."""
        self._note_wanted(host)
        holders = [other for other in self.hosts if self._known_to_have(other, host)]
        random = stream(len(holders), "sources", host.name)
        sources = random.sample(holders, min(SOURCES_MAX, len(holders)))
        self.world.pull(host, self.blobs, sources=sources)

    def have(self, host: Host) -> None:
        """Give a host the image, unless it wants it."""
        if host not in self.wanted:
            self.holders.add(host)
            self.world.seed_blobs(host, self.blobs)

    def unwanted(self, host: Host) -> None:
        """Note that a host no longer wants the image."""
        self.wanted.pop(host, None)

    def restart(self, host: Host, *, wiped: bool) -> None:
        """Start an agent again, which wants the image."""
        self._note_wanted(host)
        self.world.restart(host, self.blobs, wiped=wiped)

    def _note_wanted(self, host: Host) -> None:
        self.came_at.setdefault(host, self.world.now)
        self.wanted[host] = None

    def _known_to_have(self, other: Host, host: Host) -> bool:
        """Whether gossip has announced by now that ``other`` has the whole image."""
        if other is host or not other.online:
            return False
        known_s = self.world.now - GOSSIP_S
        return other in self.holders or all(
            other.done_at.get(blob.digest, math.inf) < known_s for blob in self.blobs
        )

    def owed(self) -> list[Host]:
        """Return the hosts that must end with the image: they want it and can be reached."""
        return [host for host in self.wanted if host.online]

    def has(self, host: Host) -> bool:
        """Whether a host has all of the image."""
        return all(blob.digest in host.done_at for blob in self.blobs)
