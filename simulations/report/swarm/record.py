"""The record of a crowd: plain data that is written, read again and drawn."""

from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from beiran.swarm.pieces import cut
from simulations.report.record import read_packed, write_packed
from simulations.swarm.host import Host
from simulations.swarm.image_pull import ImagePull
from simulations.swarm.operations import OnHost
from simulations.swarm.scenario import Crowd, Outcome
from simulations.swarm.world import STARTED_AT_S

FILE: Final = "crowd.json.z"
SAMPLES_MAX: Final = 400
"""When there are this many, every second one is dropped, and they are taken half as often."""
PLAIN: Final = "plain"


class Puller(msgspec.Struct, frozen=True):
    """One host.

    Attributes:
      role: the operations that befell it; ``plain`` if none did.
      came_at: seconds after the crowd began; None if it never wanted the image.
      took_s: from then until it had the image; None if it never had it.
      received_bytes: all that arrived. wasted_bytes: of these, all beyond one copy of each piece.
      given_bytes: sent to other hosts.
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
      want: hosts that want the image or have it. done: hosts that have it.
      pieces: accepted by all hosts together.
      origin_bytes: sent by the origin so far.
    """

    at: float
    want: int
    done: int
    pieces: int
    origin_bytes: int


class CrowdRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run of a crowd.

    Attributes:
      about: its parameters, as text.
      bound_s, whole_pieces_s: as in ``Outcome``.
      pieces: of the image.
      counters: sums over all cores.
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
        """Write the record as one file into a folder."""
        write_packed(self, folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "CrowdRecord":
        """Read the record in a folder. Raises: SettingsError if there is none."""
        return read_packed(folder / FILE, cls)


class CrowdChronicle:
    """Samples a crowd on virtual time; it changes nothing."""

    def __init__(self, pull: ImagePull, *, every_s: float = 0.05) -> None:
        self._pull = pull
        self._every_s = every_s
        self._samples: list[Sample] = []
        pull.world.schedule(pull.world.now, self._look)

    def record(self, title: str, about: dict[str, str], outcome: Outcome) -> CrowdRecord:
        """Return the record, when the run is over."""
        pull, world, crowd = self._pull, self._pull.world, outcome.scenario
        counters: dict[str, int] = {}
        for host in pull.hosts:
            for name, count in host.node.counters.items():
                counters[name] = counters.get(name, 0) + count
        named = {node for host in pull.hosts if not host.lies for node in host.bans}
        return CrowdRecord(
            title=title,
            about=about,
            image_bytes=crowd.image_bytes,
            pieces=crowd.pieces,
            bound_s=outcome.bound_s,
            whole_pieces_s=outcome.whole_pieces_s,
            origin_bytes=world.origin.sent_bytes,
            datagrams=world.datagrams_sent,
            liars=len(pull.liars),
            named=len(named & pull.liars),
            counters=dict(sorted(counters.items())),
            hosts=[self._puller(crowd, number, host) for number, host in enumerate(pull.hosts)],
            samples=self._samples,
        )

    def _look(self) -> None:
        pull, world = self._pull, self._pull.world
        sample = Sample(
            world.now - STARTED_AT_S,
            len(pull.wanted),
            sum(map(pull.has, pull.wanted)),
            sum(len(host.accepted) for host in pull.hosts),
            world.origin.sent_bytes,
        )
        if not self._samples or self._samples[-1] != replace(sample, at=self._samples[-1].at):
            self._samples.append(sample)
        if len(self._samples) >= SAMPLES_MAX:
            del self._samples[1::2]
            self._every_s *= 2
        world.schedule(world.now + self._every_s, self._look)

    def _puller(self, crowd: Crowd, number: int, host: Host) -> Puller:
        pull = self._pull
        operations = (at.do for at in crowd.operations if isinstance(at.do, OnHost))
        roles = [one.role for one in operations if one.role and one.host == number]
        came_at = pull.came_at.get(host)
        took_s = None
        if came_at is not None and host in pull.wanted and pull.has(host):
            took_s = max((host.done_at[b.digest] for b in pull.blobs), default=0.0) - came_at
        received = round(host.down_pipe.carried_bytes)
        cuts = {blob.digest: cut(blob.size_bytes) for blob in pull.blobs}
        useful = sum(cuts[digest].length(piece) for digest, piece in set(host.accepted))
        return Puller(
            name=host.name,
            role=" and ".join(dict.fromkeys(roles)) or PLAIN,
            came_at=None if came_at is None else came_at - STARTED_AT_S,
            took_s=took_s,
            received_bytes=received,
            from_origin_bytes=host.from_origin_bytes,
            wasted_bytes=max(0, received - useful),
            given_bytes=round(host.up_pipe.carried_bytes),
            datagram_bytes=host.node.counters["datagram_bytes_sent"],
        )
