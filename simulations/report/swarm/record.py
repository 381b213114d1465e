"""What is kept of a crowd: plain data that can be written, read again and drawn."""

from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from beiran.swarm.pieces import cut
from simulations.report.gossip.record import read_packed, write_packed
from simulations.swarm.crowd import Stage
from simulations.swarm.host import Host
from simulations.swarm.scenario import Crowd, Outcome
from simulations.swarm.world import STARTED_AT_S

FILE: Final = "crowd.json.z"
SAMPLES_MAX: Final = 400
"""Every second one is left out when there are so many, and they are taken half as often."""
PLAIN: Final = "plain"


class Puller(msgspec.Struct, frozen=True):
    """One host.

    Attributes:
      role: what befell it, ``plain`` if nothing did.
      came_at: seconds after the crowd began; None if it never wanted the image.
      took_s: from then until it had the image; None if it never had it.
      received_bytes: all that came to it. wasted_bytes: of these beyond each piece's once.
      given_bytes: to others.
    """

    name: str
    role: str
    came_at: float | None
    took_s: float | None
    received_bytes: int
    from_origin_bytes: int
    wasted_bytes: int
    given_bytes: int
    datagram_bytes: int


class Sample(msgspec.Struct, frozen=True):
    """The crowd at one moment.

    Attributes:
      want: hosts that want the image, or have got it. done: those that have it.
      pieces: accepted by all hosts together.
      origin_bytes: what the origin had sent.
    """

    at: float
    want: int
    done: int
    pieces: int
    origin_bytes: int


class CrowdRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run of a crowd.

    Attributes:
      about: what it was run with, in words.
      bound_s, whole_pieces_s: as in ``Outcome``.
      pieces: of the image.
      counters: what all cores counted together.
    """

    title: str
    about: dict[str, str]
    image_bytes: int
    pieces: int
    bound_s: float
    whole_pieces_s: float | None
    origin_bytes: int
    datagrams: int
    liars: int
    named: int
    counters: dict[str, int]
    hosts: list[Puller]
    samples: list[Sample]

    def write(self, folder: Path) -> None:
        """As one file there."""
        write_packed(self, folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "CrowdRecord":
        """Raises: SettingsError where there is none."""
        return read_packed(folder / FILE, cls)


class Chronicle:
    """Looks at a crowd now and then, on its own virtual time; changes nothing."""

    def __init__(self, stage: Stage, *, every_s: float = 0.05) -> None:
        self._stage = stage
        self._every_s = every_s
        self._samples: list[Sample] = []
        stage.world.heap.at(stage.world.now, self._look)

    def record(self, title: str, about: dict[str, str], outcome: Outcome) -> CrowdRecord:
        """All of it, when the run is over."""
        stage, world, crowd = self._stage, self._stage.world, outcome.scenario
        counters: dict[str, int] = {}
        for host in stage.hosts:
            for name, count in host.node.counters.items():
                counters[name] = counters.get(name, 0) + count
        named = {node for host in stage.hosts if not host.lies for node in host.distrusted}
        return CrowdRecord(
            title=title,
            about=about,
            image_bytes=crowd.image_bytes,
            pieces=crowd.pieces,
            bound_s=outcome.bound_s,
            whole_pieces_s=outcome.whole_pieces_s,
            origin_bytes=world.origin.sent_bytes,
            datagrams=world.datagrams,
            liars=len(stage.liars),
            named=len(named & stage.liars),
            counters=dict(sorted(counters.items())),
            hosts=[self._puller(crowd, number, host) for number, host in enumerate(stage.hosts)],
            samples=self._samples,
        )

    def _look(self) -> None:
        stage, world = self._stage, self._stage.world
        sample = Sample(
            world.now - STARTED_AT_S,
            len(stage.wanted),
            sum(map(stage.has, stage.wanted)),
            sum(len(host.accepted) for host in stage.hosts),
            world.origin.sent_bytes,
        )
        if not self._samples or self._samples[-1] != replace(sample, at=self._samples[-1].at):
            self._samples.append(sample)
        if len(self._samples) >= SAMPLES_MAX:
            del self._samples[1::2]
            self._every_s *= 2
        world.heap.at(world.now + self._every_s, self._look)

    def _puller(self, crowd: Crowd, number: int, host: Host) -> Puller:
        stage = self._stage
        roles = [
            at.do.role
            for at in crowd.operations
            if at.do.role and getattr(at.do, "host", None) == number
        ]
        came_at = stage.came_at.get(host)
        took_s = None
        if came_at is not None and host in stage.wanted and stage.has(host):
            took_s = max((host.done_at[b.digest] for b in stage.blobs), default=0.0) - came_at
        received = round(host.down.carried_bytes)
        cuts = {blob.digest: cut(blob.size_bytes) for blob in stage.blobs}
        useful = sum(cuts[digest].length(piece) for digest, piece in set(host.accepted))
        return Puller(
            name=host.name,
            role=" and ".join(dict.fromkeys(roles)) or PLAIN,
            came_at=None if came_at is None else came_at - STARTED_AT_S,
            took_s=took_s,
            received_bytes=received,
            from_origin_bytes=host.from_origin_bytes,
            wasted_bytes=max(0, received - useful),
            given_bytes=round(host.up.carried_bytes),
            datagram_bytes=host.node.counters["datagram_bytes_sent"],
        )
