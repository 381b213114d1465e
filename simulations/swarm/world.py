"""Swarm cores on virtual time: blobs flow as fluids; every datagram is encoded, sent, and decoded.

Gossip is replaced by a constant: all members learn at once, ``noticed_s`` later, that one is gone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from typing_extensions import override

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.config import DATAGRAM_BYTES_MAX, SwarmConfig
from beiran.swarm.effects import (
    BlobComplete,
    BlobStuck,
    CancelFetch,
    Effect,
    FetchFromOrigin,
    FetchFromPeer,
    PeerBanned,
    PeerUnbanned,
    PieceAccepted,
    PieceRevoked,
    SendDatagram,
    UploadAdmitted,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.swarm.pieces import cut
from simulations.kernel import world as kernel
from simulations.kernel.fluid import UPDATES_MAX, Flows, Pipe
from simulations.kernel.host import address_of
from simulations.kernel.links import Link, Uniform
from simulations.kernel.traffic import TAG_AT, TAG_BITS
from simulations.swarm.blobs import Blob, true_hash
from simulations.swarm.host import Host, Origin
from simulations.swarm.transfers import Transfers

MBIT: Final = 125_000.0  # bytes per second
LATENCY_S: Final = 0.0005
VERIFY_BYTES_PER_S: Final = 500e6  # SHA-256 of one core, with the disk's reads
STARTED_AT_S: Final = 1000.0
"""Virtual time at the start: not 0, so a core that takes 0 for "never" is found out."""


@dataclass(frozen=True, slots=True)
class CrowdLink(Link):
    """A link that draws equally many numbers whatever its loss is.

    A crowd with loss and one without it so draw the same numbers for all else.
    """

    @override
    def deliveries(self, random: Random) -> tuple[float, ...]:
        if random.random() < self.loss:
            return ()
        return (self.latency.draw(random),)


class World(kernel.World[Host]):
    """Hosts with swarm cores, an origin, and the network between them.

    Args:
      origin_rate: bytes a second.
      loss, duplication: shares of datagrams, 0 to 1.
      jitter_s: a datagram is delayed by up to this much, so that datagrams overtake.
      noticed_s: how long after a host died or fell silent the others learn it.
      updates_max: as in ``Flows``.

    Attributes:
      datagrams_sent: by all cores.
      wrong_accepted: pieces that a core accepted though their bytes are wrong.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        origin_rate: float = 50 * MBIT,
        loss: float = 0.0,
        duplication: float = 0.0,
        jitter_s: float = 0.0,
        noticed_s: float = 3.0,
        config: SwarmConfig | None = None,
        updates_max: int = UPDATES_MAX,
    ) -> None:
        link = CrowdLink(Uniform(LATENCY_S, LATENCY_S + jitter_s), loss=loss)
        super().__init__(seed, link=link, starts_at=STARTED_AT_S)
        self.random = Random(seed)
        self.duplication = duplication
        self.noticed_s = noticed_s
        self.config = config or SwarmConfig()
        self.flows = Flows(self.time, updates_max=updates_max)
        self.origin = Origin(Pipe(origin_rate))
        self.by_id: dict[NodeId, Host] = {}
        self.datagrams_sent = 0
        self.wrong_accepted = 0
        self._transfers = Transfers(self, self.flows, self.origin)

    # --- hosts ------------------------------------------------------------------------------

    def add(self, *, up: float = 50 * MBIT, down: float = 50 * MBIT) -> Host:
        """Add a host that no other knows yet. Rates in bytes a second."""
        number = len(self.hosts)
        host = Host(
            number=number,
            name=f"h{number + 1}",
            address=address_of(number + 1),
            node=self._node(NodeId(self.random.randbytes(16))),
            path_random=self.random,
            up_pipe=Pipe(up),
            down_pipe=Pipe(down),
        )
        self.machines.add(host)
        self.by_id[host.id] = host
        return host

    def _node(self, own: NodeId) -> SwarmNode:
        return SwarmNode(
            own,
            cluster="default",
            config=self.config,
            random=Random(self.random.getrandbits(32)),
            now=self.now,
        )

    def add_many(self, count: int, **rates: float) -> list[Host]:
        """Add hosts that know each other."""
        hosts = [self.add(**rates) for _ in range(count)]
        self.update_members()
        return hosts

    def update_members(self) -> None:
        """All hosts learn at once which are online; one that is cut off learns of none."""
        online = {h.id: h.address for h in self.hosts if h.online}
        for host in self.hosts:
            if host.running:
                known = online if host.up else {}
                others = {node: at for node, at in known.items() if node != host.id}
                self.do(host, host.node.set_members(others, now=self.now))

    # --- faults -----------------------------------------------------------------------------

    def kill(self, host: Host, *, noticed_s: float | None = None) -> None:
        """kill -9: connections break, and the machine refuses new ones."""
        self.processes.end(host)
        self._transfers.break_all(host)
        self.schedule(self.now + (noticed_s or self.noticed_s), self.update_members)

    def unplug(self, host: Host) -> None:
        """Pull the cable: no connection breaks, and no byte moves."""
        host.up = False
        self.flows.set_rate(host.up_pipe, 0.0)
        self.flows.set_rate(host.down_pipe, 0.0)
        self.schedule(self.now + self.noticed_s, self.update_members)

    def plug_in(self, host: Host, up: float, down: float) -> None:
        """Put the cable in again."""
        host.up = True
        self.flows.set_rate(host.up_pipe, up)
        self.flows.set_rate(host.down_pipe, down)
        self.schedule(self.now + self.noticed_s, self.update_members)

    def leave(self, host: Host) -> None:
        """End the agent in good order: it announces its leave, and the others know at once."""
        for digest in list(host.sizes):
            self.do(host, host.node.withdraw(digest, now=self.now))
        self.give_up(host, host.sizes)
        self.processes.end(host)
        self._transfers.break_all(host)
        self.update_members()

    def restart(self, host: Host, blobs: Iterable[Blob], *, wiped: bool = False) -> None:
        """Start the agent again; the image is wanted again. ``wiped``: without its cache."""
        old = host.node
        host.running = True
        host.life += 1
        host.node = self._node(old.own)
        if wiped:
            host.done_at.clear()
            host.file.clear()
        self.update_members()
        for rank, blob in enumerate(blobs):
            digest, pieces = blob.digest, cut(blob.size_bytes)
            host.sizes[digest] = blob.size_bytes
            if digest in host.done_at:
                self.do(host, host.node.provide(digest, blob.size_bytes, now=self.now))
                continue
            held = {
                piece: self._transfers.hash_of(host, digest, piece, host.file[digest, piece])
                for piece in range(pieces.count)
                if not wiped and old.holds(digest, pieces.start(piece), pieces.end(piece))
            }
            wanted = BlobWanted(digest, blob.size_bytes, True, rank)
            self.do(host, host.node.want(wanted, now=self.now, pieces_held=held))

    def limit_uplink(self, host: Host, up: float) -> None:
        """Let the host send no more than ``up`` bytes a second."""
        self.flows.set_rate(host.up_pipe, up)

    # --- blobs ------------------------------------------------------------------------------

    def publish(self, blobs: Iterable[Blob]) -> None:
        """Put blobs into the origin."""
        for blob in blobs:
            self.origin.blobs[blob.digest] = blob.size_bytes

    def seed_blobs(self, host: Host, blobs: Iterable[Blob], *, hashes: bool = True) -> None:
        """Give a host whole blobs; without ``hashes`` it does not know their pieces' hashes."""
        for blob in blobs:
            pieces = cut(blob.size_bytes)
            known = [true_hash(blob.digest, p) for p in range(pieces.count)] if hashes else []
            for piece in range(pieces.count):
                host.file[blob.digest, piece] = ()
            host.sizes[blob.digest] = blob.size_bytes
            provided = host.node.provide(blob.digest, blob.size_bytes, now=self.now, hashes=known)
            self.do(host, provided)

    def pull(
        self,
        host: Host,
        blobs: Iterable[Blob],
        *,
        sources: Iterable[Host] = (),
        from_origin: bool = True,
    ) -> None:
        """Let a host want all blobs of an image, in this order."""
        nodes = tuple(source.id for source in sources)
        for rank, blob in enumerate(blobs):
            host.sizes[blob.digest] = blob.size_bytes
            wanted = BlobWanted(blob.digest, blob.size_bytes, from_origin, rank, nodes)
            self.do(host, host.node.want(wanted, now=self.now))

    def give_up(self, host: Host, digests: Iterable[Digest]) -> None:
        """Let a host want these blobs no longer."""
        for digest in list(digests):
            self.do(host, host.node.drop(digest, now=self.now))

    def pulled(self, hosts: Iterable[Host], blobs: Iterable[Blob]) -> Callable[[], bool]:
        """Return a condition for ``run_until``: all hosts still online have all blobs."""
        left = [(host, blob.digest) for host in hosts for blob in blobs]

        def all_there() -> bool:
            while left:
                host, digest = left[-1]
                if digest not in host.done_at and host.online:
                    return False
                left.pop()
            return True

        return all_there

    @override
    def differences(self) -> str:
        lines = [f"at {self.now:.3f}"]
        for host in self.hosts:
            lines.append(f"{host.name}: {len(host.done_at)} of {len(host.sizes)} blobs")
        return "\n".join(lines)

    # --- effects ----------------------------------------------------------------------------

    @override
    def do(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            if self.trace is not None:
                self.trace(f"{self.now:.6f} {host.name} {effect}")
            if host.blocked_until is None:
                self.act(host, effect)
            else:
                host.outbox.append(effect)
        self.processes.plan(host)

    @override
    def act(self, host: Host, effect: Effect) -> None:
        match effect:
            case SendDatagram(to, data):
                self.send(host, to, data)
            case FetchFromPeer():
                self._transfers.from_peer(host, effect)
            case FetchFromOrigin():
                self._transfers.from_origin(host, effect)
            case CancelFetch(fetch):
                self._transfers.cancel(host, fetch)
            case UploadAdmitted(number):
                self._transfers.admitted(host, number)
            case PieceAccepted(digest, piece):
                host.accepted.append((digest, piece))
                if host.file.get((digest, piece)):
                    self.wrong_accepted += 1
            case BlobComplete(digest):
                after_s = host.sizes[digest] / VERIFY_BYTES_PER_S
                self.schedule(self.now + after_s, self._verify, host, digest)
            case BlobStuck(digest, reason):
                host.stuck[digest] = reason
            case PeerBanned(node, reason):
                host.bans[node] = reason
            case PieceRevoked() | PeerUnbanned():
                pass  # reports for statistics

    def send(self, host: Host, to: Address, data: bytes) -> None:
        """Send a datagram; tests of misbehaving hosts override this."""
        assert len(data) <= DATAGRAM_BYTES_MAX
        self.datagrams_sent += 1
        for _ in range(2 if self.random.random() < self.duplication else 1):
            self.datagrams.send(host, to, data, data[TAG_AT] & TAG_BITS)

    def _verify(self, host: Host, digest: Digest) -> None:
        if not host.running:
            return
        pieces = cut(host.sizes[digest])
        wrong = [p for p in range(pieces.count) if host.file.get((digest, p), ("none",))]
        if wrong and not host.lies:
            self.do(host, host.node.damaged(digest, now=self.now))
        else:
            host.done_at.setdefault(digest, self.now)
            self.do(host, host.node.verified(digest, now=self.now))
