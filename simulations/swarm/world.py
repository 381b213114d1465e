"""Swarm cores on virtual time: links are fluids, every datagram is encoded, sent, and decoded."""

from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Final

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
    PeerDistrusted,
    PieceAccepted,
    SendDatagram,
    UploadAdmitted,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.swarm.pieces import cut
from simulations.kernel.fluid import UPDATES_MAX, Link, Network
from simulations.kernel.time import Heap
from simulations.swarm.blobs import Blob, true_hash
from simulations.swarm.host import Host, Origin
from simulations.swarm.transfers import Transfers

MBIT: Final = 125_000.0  # bytes per second
LATENCY_S: Final = 0.0005
VERIFY_BYTES_PER_S: Final = 500e6
STARTED_AT_S: Final = 1000.0


class World:
    """Virtual time, hosts, an origin, and the network between them.

    Args:
      origin_rate: bytes a second.
      loss, duplication: of datagrams, 0 to 1. jitter_s: up to so much later, so that they overtake.
      noticed_s: how long after a host died or fell silent the others are told (by gossip).
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
        self.random = Random(seed)
        self.heap = Heap(STARTED_AT_S)
        self.loss, self.duplication, self.jitter_s = loss, duplication, jitter_s
        self.noticed_s = noticed_s
        self.config = config or SwarmConfig()
        self.network = Network(lambda: self.now, self.heap.at, updates_max=updates_max)
        self.origin = Origin(Link(origin_rate, level=origin_rate))
        self.hosts: dict[Address, Host] = {}
        self.by_id: dict[NodeId, Host] = {}
        self.datagrams = 0
        self.wrong_accepted = 0
        self.trace: Callable[[str], None] | None = None
        self._transfers = Transfers(self)

    @property
    def now(self) -> float:
        """Virtual time, in seconds."""
        return self.heap.now

    # --- hosts

    def add(self, *, up: float = 50 * MBIT, down: float = 50 * MBIT) -> Host:
        """A host more, of which nobody knows yet. Rates in bytes a second."""
        number = len(self.hosts) + 1
        address = Address(f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}", 8888)
        node = self._node(NodeId(self.random.randbytes(16)))
        host = Host(f"h{number}", node, address, Link(up, level=up), Link(down, level=down))
        self.hosts[address] = host
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
        """So many hosts, which know each other."""
        hosts = [self.add(**rates) for _ in range(count)]
        self.tell_members()
        return hosts

    def tell_members(self) -> None:
        """Everybody learns at once who is online; who is cut off reaches nobody."""
        online = {h.id: h.address for h in self.hosts.values() if h.reachable}
        for host in list(self.hosts.values()):
            if host.running:
                known = {} if host.silent else online
                others = {node: at for node, at in known.items() if node != host.id}
                self.do(host, host.node.set_members(others, now=self.now))

    def kill(self, host: Host, *, noticed_s: float | None = None) -> None:
        """kill -9: connections break, nobody listens there."""
        host.running = False
        self._transfers.break_all(host)
        self.heap.at(self.now + (noticed_s or self.noticed_s), self.tell_members)

    def silence(self, host: Host) -> None:
        """Its cable is out: nothing breaks, nothing moves."""
        host.silent = True
        self.network.set_rate(host.up, 0.0)
        self.network.set_rate(host.down, 0.0)
        self.heap.at(self.now + self.noticed_s, self.tell_members)

    def leave(self, host: Host) -> None:
        """Its agent ends in good order: it says so, and the others know at once."""
        for digest in list(host.sizes):
            self.do(host, host.node.withdraw(digest, now=self.now))
        self.give_up(host, host.sizes)
        host.running = False
        self._transfers.break_all(host)
        self.tell_members()

    def restart(self, host: Host, blobs: Iterable[Blob], *, wiped: bool = False) -> None:
        """Its agent starts again, and the image is wanted again. ``wiped``: its cache is gone."""
        old = host.node
        host.running = True
        host.wake_at = None
        host.node = self._node(old.own)
        if wiped:
            host.done_at.clear()
            host.file.clear()
        self.tell_members()
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

    def plug_in(self, host: Host, up: float, down: float) -> None:
        """Its cable is in again."""
        host.silent = False
        self.network.set_rate(host.up, up)
        self.network.set_rate(host.down, down)
        self.heap.at(self.now + self.noticed_s, self.tell_members)

    def slow_down(self, host: Host, up: float) -> None:
        """It gives no more than ``up`` bytes a second from now on."""
        self.network.set_rate(host.up, up)

    # --- blobs

    def publish(self, blobs: Iterable[Blob]) -> None:
        """The origin has these blobs."""
        for blob in blobs:
            self.origin.blobs[blob.digest] = blob.size_bytes

    def seed(self, host: Host, blobs: Iterable[Blob], *, hashes: bool = True) -> None:
        """The host has these blobs whole."""
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
        """All blobs of an image are wanted, in this order."""
        nodes = tuple(source.id for source in sources)
        for rank, blob in enumerate(blobs):
            host.sizes[blob.digest] = blob.size_bytes
            wanted = BlobWanted(blob.digest, blob.size_bytes, from_origin, rank, nodes)
            self.do(host, host.node.want(wanted, now=self.now))

    def give_up(self, host: Host, digests: Iterable[Digest]) -> None:
        """Nobody there wants these blobs any more."""
        for digest in list(digests):
            self.do(host, host.node.drop(digest, now=self.now))

    # --- time

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self.heap.step(until):
            pass

    def run_until(self, condition: Callable[[], bool], *, within_s: float) -> float:
        """Run until it holds, and return how long that took."""
        begun, until = self.now, self.now + within_s
        while not condition():
            assert self.heap.step(until), f"not within {within_s} s"
        return self.now - begun

    def pulled(self, hosts: Iterable[Host], blobs: Iterable[Blob]) -> Callable[[], bool]:
        """Whether all hosts that still run have all blobs. For ``run_until``."""
        left = [(host, blob.digest) for host in hosts for blob in blobs]

        def all_there() -> bool:
            while left:
                host, digest = left[-1]
                if digest not in host.done_at and host.reachable:
                    return False
                left.pop()
            return True

        return all_there

    # --- effects

    def do(self, host: Host, effects: Iterable[Effect]) -> None:
        """What a core wants done is done, and what it tells is noted."""
        for effect in effects:
            if self.trace is not None:
                self.trace(f"{self.now:.6f} {host.name} {effect}")
            match effect:
                case SendDatagram(to, data):
                    self._send(host, to, data)
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
                    self.heap.at(self.now + after_s, partial(self._verify, host, digest))
                case BlobStuck(digest, reason):
                    host.stuck[digest] = reason
                case PeerDistrusted(node, reason):
                    host.distrusted[node] = reason
                case _:
                    pass
        self._wake(host)

    def _wake(self, host: Host) -> None:
        deadline = host.node.next_deadline()
        if deadline is None or not host.running:
            host.wake_at = None
        elif host.wake_at is None or deadline < host.wake_at:
            host.wake_at = deadline
            self.heap.at(deadline, lambda: self._advance(host, deadline))

    def _advance(self, host: Host, deadline: float) -> None:
        if host.wake_at == deadline and host.running:
            host.wake_at = None
            self.do(host, host.node.advance(now=self.now))

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

    # --- datagrams

    def _send(self, host: Host, to: Address, data: bytes) -> None:
        assert len(data) <= DATAGRAM_BYTES_MAX
        self.datagrams += 1
        for _ in range(2 if self.random.random() < self.duplication else 1):
            if host.silent or self.random.random() < self.loss:
                continue
            at = self.now + LATENCY_S + self.random.random() * self.jitter_s
            self.heap.at(at, lambda: self._receive(host, to, data))

    def _receive(self, source: Host, to: Address, data: bytes) -> None:
        host = self.hosts[to]
        if host.reachable:
            self.do(host, host.node.receive_datagram(data, source.address, now=self.now))
