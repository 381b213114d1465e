"""Swarm cores on virtual time: links are fluids, every datagram is encoded, sent, and decoded."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from beiran.gossip.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.config import DATAGRAM_BYTES_MAX, SwarmConfig
from beiran.swarm.effects import (
    BlobComplete,
    BlobStuck,
    CancelFetch,
    Effect,
    FetchFailure,
    FetchFromOrigin,
    FetchFromPeer,
    PeerDistrusted,
    PieceAccepted,
    SendDatagram,
    UploadAdmitted,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.swarm.pieces import cut
from tests.swarm.links import Flow, Heap, Link, Network

MIB = 1024 * 1024
MBIT = 125_000.0  # bytes per second
LATENCY_S = 0.0005
REQUEST_S = 0.003  # until a fetch's first byte: a round trip, and the work on both sides
ORIGIN_REQUEST_S = 0.01
PROGRESS_S = 0.2
HANG_S = 10.0  # after so long the executor gives up a fetch from a silent peer
VERIFY_BYTES_PER_S = 500e6


def blob_digest(name: str) -> Digest:
    return Digest(hashlib.sha256(name.encode()).digest())


def true_hash(digest: Digest, piece: int) -> bytes:
    return hashlib.blake2b(digest + piece.to_bytes(4, "big"), digest_size=32).digest()


@dataclass(frozen=True)
class Blob:
    name: str
    size_bytes: int

    @property
    def digest(self) -> Digest:
        return blob_digest(self.name)


def image(layers: int, size_bytes: int, name: str = "image") -> list[Blob]:
    """An image of equal layers."""
    each = size_bytes // layers
    return [Blob(f"{name}-{number}", each) for number in range(layers)]


@dataclass
class Origin:
    """A registry. ``refused``: nodes that it denies everything."""

    link: Link
    blobs: dict[Digest, int] = field(default_factory=dict)
    refused: set[NodeId] = field(default_factory=set)
    up: bool = True
    spoils: bool = False
    sent_bytes: int = 0


@dataclass(eq=False)
class Transfer:
    """One fetch as its executor sees it."""

    fetch: int
    digest: Digest
    start: int
    end: int
    giver: "Host | None"
    active: int = 0
    flow: Flow | None = None
    upload: int | None = None
    pieces_told: int = 0
    over: bool = False


@dataclass(eq=False)
class Host:
    """A host with one agent. ``file``: what each piece consists of: true, or who spoiled it."""

    name: str
    node: SwarmNode
    address: Address
    up: Link
    down: Link
    running: bool = True
    silent: bool = False
    spoils: bool = False
    lies: bool = False
    transfers: dict[int, Transfer] = field(default_factory=dict)
    uploads: dict[int, tuple["Host", Transfer]] = field(default_factory=dict)
    file: dict[tuple[Digest, int], tuple[str, ...]] = field(default_factory=dict)
    accepted: list[tuple[Digest, int]] = field(default_factory=list)
    done_at: dict[Digest, float] = field(default_factory=dict)
    stuck: dict[Digest, str] = field(default_factory=dict)
    distrusted: dict[NodeId, str] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    wake_at: float | None = None

    @property
    def id(self) -> NodeId:
        return self.node.own


class World:
    """Virtual time, hosts, an origin, and the network between them.

    Args:
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
        updates_max: int = 24,
    ) -> None:
        self.random = Random(seed)
        self.heap = Heap(1000.0)
        self.loss, self.duplication, self.jitter_s = loss, duplication, jitter_s
        self.noticed_s = noticed_s
        self.config = config or SwarmConfig()
        self.network = Network(lambda: self.now, self.heap.at, updates_max=updates_max)
        self.origin = Origin(Link(origin_rate, level=origin_rate))
        self.hosts: dict[Address, Host] = {}
        self.by_id: dict[NodeId, Host] = {}
        self.datagrams = 0
        self.wrong_accepted = 0
        self.trace: list[str] | None = None

    @property
    def now(self) -> float:
        return self.heap.now

    # --- hosts

    def add(self, *, up: float = 50 * MBIT, down: float = 50 * MBIT) -> Host:
        number = len(self.hosts) + 1
        address = Address(f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}", 8888)
        node = SwarmNode(
            NodeId(self.random.randbytes(16)),
            cluster="default",
            config=self.config,
            random=Random(self.random.getrandbits(32)),
            now=self.now,
        )
        host = Host(f"h{number}", node, address, Link(up, level=up), Link(down, level=down))
        self.hosts[address] = host
        self.by_id[host.id] = host
        return host

    def add_many(self, count: int, **rates: float) -> list[Host]:
        hosts = [self.add(**rates) for _ in range(count)]
        self.tell_members()
        return hosts

    def tell_members(self) -> None:
        """Everybody learns at once who is online."""
        online = {h.id: h.address for h in self.hosts.values() if h.running and not h.silent}
        for host in list(self.hosts.values()):
            if host.running:
                others = {node: at for node, at in online.items() if node != host.id}
                self.do(host, host.node.set_members(others, now=self.now))

    def kill(self, host: Host, *, noticed_s: float | None = None) -> None:
        """kill -9: connections break, nobody listens there."""
        host.running = False
        for transfer in list(host.transfers.values()):
            self._end_transfer(host, transfer)
        for other in list(self.hosts.values()):
            for transfer in list(other.transfers.values()):
                if transfer.giver is host:
                    self._fail(other, transfer, FetchFailure.BROKEN)
        self.heap.at(self.now + (noticed_s or self.noticed_s), self.tell_members)

    def silence(self, host: Host) -> None:
        """Its cable is out: nothing breaks, nothing moves."""
        host.silent = True
        self.network.set_rate(host.up, 0.0)
        self.network.set_rate(host.down, 0.0)
        self.heap.at(self.now + self.noticed_s, self.tell_members)

    def slow_down(self, host: Host, up: float) -> None:
        self.network.set_rate(host.up, up)

    # --- blobs

    def publish(self, blobs: Iterable[Blob]) -> None:
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

    # --- time

    def run(self, seconds: float) -> None:
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
                if digest not in host.done_at and host.running and not host.silent:
                    return False
                left.pop()
            return True

        return all_there

    # --- effects

    def do(self, host: Host, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if self.trace is not None:
                self.trace.append(f"{self.now:.6f} {host.name} {effect}")
            match effect:
                case SendDatagram(to, data):
                    self._send(host, to, data)
                case FetchFromPeer(fetch, node, address, digest, start, end, _, active):
                    giver = self.hosts[address]
                    assert giver.id == node
                    transfer = Transfer(fetch, digest, start, end, giver, active)
                    host.transfers[fetch] = transfer
                    self._later(REQUEST_S, host, transfer, self._ask_peer)
                case FetchFromOrigin(fetch, digest, start, end, _):
                    transfer = Transfer(fetch, digest, start, end, None)
                    host.transfers[fetch] = transfer
                    self._later(ORIGIN_REQUEST_S, host, transfer, self._ask_origin)
                case CancelFetch(fetch):
                    cancelled = host.transfers.get(fetch)
                    if cancelled is not None:
                        self._end_transfer(host, cancelled)
                case UploadAdmitted(number):
                    to_host, admitted = host.uploads[number]
                    if not to_host.silent:
                        self._begin_flow(to_host, admitted, host.up)
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
        if host.running and not host.silent:
            self.do(host, host.node.receive_datagram(data, source.address, now=self.now))

    # --- fetches

    def _later(
        self,
        delay_s: float,
        host: Host,
        transfer: Transfer,
        call: Callable[[Host, Transfer], None],
    ) -> None:
        self.heap.at(self.now + delay_s, lambda: None if transfer.over else call(host, transfer))

    def _ask_peer(self, host: Host, transfer: Transfer) -> None:
        giver = transfer.giver
        assert giver is not None
        if giver.silent or host.silent:
            self._later(HANG_S, host, transfer, self._hang_up)
            return
        if not giver.running:
            self._fail(host, transfer, FetchFailure.UNREACHABLE)
            return
        digest, start, end = transfer.digest, transfer.start, transfer.end
        if not giver.node.holds(digest, start, end):
            self._fail(host, transfer, FetchFailure.MISSING)
            return
        upload = giver.node.begin_upload(
            digest, start, host.id, active=transfer.active, now=self.now
        )
        if upload is None:
            self._fail(host, transfer, FetchFailure.BUSY)
            return
        transfer.upload = upload.number
        giver.uploads[upload.number] = (host, transfer)
        if upload.admitted:
            self._begin_flow(host, transfer, giver.up)

    def _ask_origin(self, host: Host, transfer: Transfer) -> None:
        if host.id in self.origin.refused or transfer.digest not in self.origin.blobs:
            self._fail(host, transfer, FetchFailure.ORIGIN_REFUSED)
        elif not self.origin.up:
            self._fail(host, transfer, FetchFailure.ORIGIN_UNAVAILABLE)
        else:
            self._begin_flow(host, transfer, self.origin.link)

    def _begin_flow(self, host: Host, transfer: Transfer, up: Link) -> None:
        for piece in self._piece_ends(transfer):  # who writes from the start of a piece, replaces
            if cut(host.sizes[transfer.digest]).start(piece) >= transfer.start:
                host.file.pop((transfer.digest, piece), None)
        self._next_piece(host, transfer, up)
        self.do(host, host.node.fetch_answered(transfer.fetch, now=self.now))
        self._later(PROGRESS_S, host, transfer, self._progress)

    def _piece_ends(self, transfer: Transfer) -> range:
        pieces = cut(self._size(transfer))
        return range(pieces.at(transfer.start), pieces.at(transfer.end - 1) + 1)

    def _size(self, transfer: Transfer) -> int:
        for host in self.hosts.values():
            if transfer.digest in host.sizes:
                return host.sizes[transfer.digest]
        raise AssertionError("a fetch of what nobody knows")

    def _next_piece(self, host: Host, transfer: Transfer, up: Link) -> None:
        """The bytes up to the end of the next piece begin to flow."""
        pieces = cut(host.sizes[transfer.digest])
        piece = pieces.at(transfer.start) + transfer.pieces_told
        start = max(transfer.start, pieces.start(piece))
        size = min(pieces.end(piece), transfer.end) - start

        def arrived(_: Flow) -> None:
            self._piece_came(host, transfer, piece, up)

        transfer.flow = self.network.start(up, host.down, size, arrived)

    def _piece_came(self, host: Host, transfer: Transfer, piece: int, up: Link) -> None:
        transfer.flow = None
        transfer.pieces_told += 1
        digest = transfer.digest
        if transfer.giver is None:
            self.origin.sent_bytes += self._piece_size(transfer, piece)
        self._write(host, transfer, piece)
        pieces = cut(host.sizes[digest])
        more = pieces.end(piece) < transfer.end
        if more:
            self._next_piece(host, transfer, up)
        told = host.node.piece_arrived(
            transfer.fetch, piece, self._hash(host, digest, piece), now=self.now
        )
        self.do(host, told)
        if not more and not transfer.over:
            self._end_transfer(host, transfer)
            self.do(host, host.node.fetch_done(transfer.fetch, now=self.now))

    def _piece_size(self, transfer: Transfer, piece: int) -> int:
        pieces = cut(self._size(transfer))
        return min(pieces.end(piece), transfer.end) - max(transfer.start, pieces.start(piece))

    def _write(self, host: Host, transfer: Transfer, piece: int) -> None:
        """What came is in the file, spoiled or not."""
        key, giver = (transfer.digest, piece), transfer.giver
        marks = host.file.get(key, ())
        if giver is not None:
            if giver.spoils:
                marks = (*marks, giver.name)
            marks = (*marks, *giver.file.get(key, ()))
        elif self.origin.spoils:
            marks = ("origin",)
        host.file[key] = marks

    def _hash(self, host: Host, digest: Digest, piece: int) -> bytes:
        marks = host.file[digest, piece]
        if host.lies:
            marks = (*marks, host.name)
        truth = true_hash(digest, piece)
        return hashlib.blake2b(truth + repr(marks).encode()).digest()[:32] if marks else truth

    def _progress(self, host: Host, transfer: Transfer) -> None:
        self.do(
            host,
            host.node.fetch_progressed(transfer.fetch, self._done(host, transfer), now=self.now),
        )
        self._later(PROGRESS_S, host, transfer, self._progress)

    def _done(self, host: Host, transfer: Transfer) -> int:
        done = 0
        pieces = cut(host.sizes[transfer.digest])
        if transfer.pieces_told:
            last = pieces.at(transfer.start) + transfer.pieces_told - 1
            done = pieces.end(last) - transfer.start
        if transfer.flow is not None:
            done += self.network.moved(transfer.flow)
        return done

    def _hang_up(self, host: Host, transfer: Transfer) -> None:
        self._fail(host, transfer, FetchFailure.UNREACHABLE)

    def _fail(self, host: Host, transfer: Transfer, failure: FetchFailure) -> None:
        done = self._done(host, transfer)
        self._end_transfer(host, transfer)
        if done:
            self.do(host, host.node.fetch_progressed(transfer.fetch, done, now=self.now))
        self.do(host, host.node.fetch_failed(transfer.fetch, failure, now=self.now))

    def _end_transfer(self, host: Host, transfer: Transfer) -> None:
        if transfer.over:
            return
        transfer.over = True
        sent = self._done(host, transfer)
        host.transfers.pop(transfer.fetch, None)
        if transfer.flow is not None:
            self.network.stop(transfer.flow)
            piece = cut(self._size(transfer)).at(transfer.start) + transfer.pieces_told
            if transfer.giver is None:
                self.origin.sent_bytes += self.network.moved(transfer.flow)
            elif self.network.moved(transfer.flow):
                self._write(host, transfer, piece)
            transfer.flow = None
        if transfer.upload is not None and transfer.giver is not None:
            giver = transfer.giver
            giver.uploads.pop(transfer.upload, None)
            if giver.running:
                self.do(giver, giver.node.end_upload(transfer.upload, sent, now=self.now))

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
