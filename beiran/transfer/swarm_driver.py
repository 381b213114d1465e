"""The loop around the swarm core: datagrams, time and what came of fetches in, effects out.

The core decides who is asked for which piece; here it is done. Bytes go straight into the partial
blob; the core is told how far each fetch is, and the hash of every piece.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import trio
from msgspec import Struct

from beiran.cache.errors import BlobMissing, CacheFull
from beiran.cache.partial_blob import PartialBlob
from beiran.cache.range_writer import Buffers, RangeWriter
from beiran.gossip.membership.member import Address
from beiran.http.token_bucket import Pace, TokenBucket
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import BlobUnknown, LibraryError, RepositoryName, Unavailable
from beiran.mirror.errors import as_library_error
from beiran.net.alarm import Alarm
from beiran.oci.manifests import MANIFEST_TYPES
from beiran.peers.blob_fetch import PeerBlobs, PeerBroken, PeerBusy, PeerFailed, PeerMissing
from beiran.registry.errors import (
    OriginBroken,
    OriginDenied,
    OriginError,
    OriginMissing,
    OriginUnavailable,
)
from beiran.registry.registry_client import OriginClient
from beiran.swarm.effects import (
    BlobComplete,
    BlobStuck,
    CancelFetch,
    Effect,
    FetchFailure,
    FetchFromOrigin,
    FetchFromPeer,
    PeerDistrusted,
    PeerForgiven,
    PieceAccepted,
    PieceDoubted,
    SendDatagram,
    UploadAdmitted,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.swarm.pieces import Pieces, cut

PEER_STALL_S: Final = 10.0
"""The core leaves a peer that stalls much sooner; this ends what it has no reason to leave."""
PROGRESS_S: Final = 0.1
"""How often the core hears of bytes within a piece."""

_log: Final = logging.getLogger(__name__)


class Wish(Struct):
    """What is known of a blob that is wanted: where its bytes go, and where an origin has it."""

    partial: PartialBlob
    pieces: Pieces
    names: list[RepositoryName]
    manifest: bool
    failure: OriginError | None = None


class TransferCounters(Struct):
    """Bytes of blobs since the start."""

    origin_bytes_received: int = 0
    peer_bytes_received: int = 0
    wasted_bytes: int = 0
    """Of blobs that are not fetched any more; received, and not used or used twice."""


class UploadPermit:
    """An upload that the core took: its bytes may go once it is ``admitted``."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.admitted: Final = trio.Event()


class SwarmDriver:
    """Drives one core.

    Attributes:
      on_accepted, on_complete, on_stuck: told of blobs that are wanted.
    """

    def __init__(
        self,
        node: SwarmNode,
        *,
        send: Callable[[bytes, Address], object],
        peers: PeerBlobs,
        origins: OriginClient,
        name_of: Callable[[NodeId], str],
        peer_bytes: TokenBucket,
    ) -> None:
        self.node: Final = node
        self.on_accepted: Callable[[Digest], None] = lambda _: None
        self.on_complete: Callable[[Digest], None] = lambda _: None
        self.on_stuck: Callable[[BlobStuck], None] = lambda _: None
        self._send: Final = send
        self._peers: Final = peers
        self._origins: Final = origins
        self._name_of: Final = name_of
        self._peer_bytes: Final = peer_bytes
        self._buffers: Final = Buffers()
        self.counters: Final = TransferCounters()
        self._wishes: dict[Digest, Wish] = {}
        self._fetches: dict[int, trio.CancelScope] = {}
        self._permits: dict[int, UploadPermit] = {}
        self._nursery: trio.Nursery | None = None
        self._alarm: Final = Alarm(node.next_deadline)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_time)
            task_status.started()

    # --- what others tell -------------------------------------------------------------------

    def set_members(
        self, members: Mapping[NodeId, Address], generations: Mapping[NodeId, int]
    ) -> None:
        """Which other members are online now, and the generations of all agents."""
        now = trio.current_time()
        self.do(self.node.set_members(members, now=now, generations=generations))

    def receive(self, data: bytes, source: Address) -> None:
        """A swarm datagram came."""
        self.do(self.node.receive_datagram(data, source, now=trio.current_time()))

    def provide(self, digest: Digest, size_bytes: int) -> None:
        """This node has a blob whole."""
        self.do(self.node.provide(digest, size_bytes, now=trio.current_time()))

    def withdraw(self, digest: Digest) -> None:
        """It has it no more."""
        self.do(self.node.withdraw(digest, now=trio.current_time()))

    def want(
        self,
        digest: Digest,
        size_bytes: int,
        blob: PartialBlob,
        *,
        name: RepositoryName,
        from_origin: bool,
        sources: Sequence[NodeId],
        rank: int,
        manifest: bool,
        held: Mapping[int, bytes],
    ) -> None:
        """Fetch a blob into ``blob``, or add sources to one that is being fetched.

        Args:
          held: the BLAKE3 of each piece that is in ``blob`` already.
        """
        wish = self._wishes.get(digest)
        if wish is None:
            wish = Wish(blob, cut(size_bytes), [], manifest)
            self._wishes[digest] = wish
        if from_origin and name not in wish.names:
            wish.names.append(name)
        wanted = BlobWanted(
            digest=digest,
            size_bytes=size_bytes,
            from_origin=bool(wish.names),
            rank=rank,
            sources=tuple(sources),
        )
        self.do(self.node.want(wanted, now=trio.current_time(), pieces_held=held))

    def wasted_now_bytes(self) -> int:
        """What was wasted of the blobs that are being fetched."""
        return sum(self._wasted(digest) for digest in self._wishes)

    def _wasted(self, digest: Digest) -> int:
        progress = self.node.progress(digest)
        return 0 if progress is None else progress.wasted_bytes

    def drop(self, digest: Digest) -> None:
        """Nobody here wants it any more."""
        self.counters.wasted_bytes += self._wasted(digest)
        self._wishes.pop(digest, None)
        self.do(self.node.drop(digest, now=trio.current_time()))

    def verified(self, digest: Digest) -> None:
        """The whole is right."""
        self.counters.wasted_bytes += self._wasted(digest)
        self._wishes.pop(digest, None)
        self.do(self.node.verified(digest, now=trio.current_time()))

    def damaged(self, digest: Digest) -> None:
        """The whole is wrong, though all pieces seemed right."""
        self.do(self.node.damaged(digest, now=trio.current_time()))

    def why_stuck(self, stuck: BlobStuck) -> LibraryError:
        """What to tell a client of a blob that is not to be had."""
        wish = self._wishes.get(stuck.digest)
        if wish is not None and wish.failure is not None:
            return as_library_error(wish.failure, BlobUnknown)
        return Unavailable(f"{digest_text(stuck.digest)} is not to be had: {stuck.reason}")

    def begin_upload(
        self, digest: Digest, start: int, node: NodeId, *, active: int
    ) -> "UploadPermit | None":
        """A peer asks for bytes; None when too many do. Tell ``end_upload`` in the end.

        Args:
          active: how many other fetches bring it bytes now, as it says.
        """
        now = trio.current_time()
        upload = self.node.begin_upload(digest, start, node, active=active, now=now)
        if upload is None:
            return None
        permit = UploadPermit(upload.number)
        if upload.admitted:
            permit.admitted.set()
        self._permits[upload.number] = permit
        return permit

    def end_upload(self, permit: "UploadPermit", bytes_sent: int) -> None:
        """An upload is over, whether all was sent or not."""
        self._permits.pop(permit.number, None)
        self.do(self.node.end_upload(permit.number, bytes_sent, now=trio.current_time()))

    # --- effects ----------------------------------------------------------------------------

    def do(self, effects: Sequence[Effect]) -> None:
        """Do what the core wants."""
        for effect in effects:
            match effect:
                case SendDatagram(to=to, data=data):
                    self._send(data, to)
                case FetchFromPeer():
                    self._start(effect.fetch, self._fetch_from_peer, effect)
                case FetchFromOrigin():
                    self._start(effect.fetch, self._fetch_from_origin, effect)
                case CancelFetch(fetch=fetch):
                    if fetch in self._fetches:
                        self._fetches.pop(fetch).cancel()
                case PieceAccepted(digest=digest):
                    self.on_accepted(digest)
                case PieceDoubted(digest=digest, piece=piece):
                    self._release(digest, piece)
                case BlobComplete(digest=digest):
                    self.on_complete(digest)
                case PeerDistrusted(node=node, reason=reason):
                    _log.warning("%s is left alone: %s", self._name_of(node), reason)
                case PeerForgiven(node=node):
                    _log.info("%s is asked again", self._name_of(node))
                case BlobStuck():
                    self.on_stuck(effect)
                case UploadAdmitted(upload=number):
                    if number in self._permits:
                        self._permits[number].admitted.set()
        self._alarm.look()

    def _start(
        self,
        fetch: int,
        work: Callable[[Any, Wish], Awaitable[FetchFailure | None]],
        effect: FetchFromPeer | FetchFromOrigin,
    ) -> None:
        if self._nursery is not None:
            scope = self._fetches[fetch] = trio.CancelScope()
            self._nursery.start_soon(self._run, fetch, scope, work, effect)

    async def _run(
        self,
        fetch: int,
        scope: trio.CancelScope,
        work: Callable[[Any, Wish], Awaitable[FetchFailure | None]],
        effect: FetchFromPeer | FetchFromOrigin,
    ) -> None:
        wish = self._wishes.get(effect.digest)
        failure: FetchFailure | None = FetchFailure.BROKEN
        if wish is not None:
            with scope:
                try:
                    failure = await work(effect, wish)
                except BlobMissing:  # given up meanwhile
                    failure = FetchFailure.BROKEN
                except (CacheFull, OSError) as error:
                    self.on_stuck(BlobStuck(effect.digest, str(error)))
        if self._fetches.get(fetch) is not scope or scope.cancelled_caught:
            return
        del self._fetches[fetch]
        now = trio.current_time()
        if failure is None:
            self.do(self.node.fetch_done(fetch, now=now))
        else:
            self.do(self.node.fetch_failed(fetch, failure, now=now))

    def _release(self, digest: Digest, piece: int) -> None:
        wish = self._wishes.get(digest)
        if wish is not None:
            wish.partial.release(wish.pieces.start(piece), wish.pieces.end(piece))

    # --- fetches ----------------------------------------------------------------------------

    async def _fetch_from_peer(self, effect: FetchFromPeer, wish: Wish) -> FetchFailure | None:
        try:
            await self._peers.fetch(
                effect.address,
                effect.digest,
                effect.start,
                effect.end,
                wish.partial,
                piece_bytes=wish.pieces.piece_bytes,
                judge=partial(self._judge, effect.fetch, effect.digest, wish.pieces),
                progress=_Progress(self, effect.fetch, from_peer=True).tell,
                stall_timeout_s=PEER_STALL_S,
                pace=Pace(self._peer_bytes, partial(self._held_back, effect.fetch)),
                active=effect.active,
            )
        except PeerBusy:
            return FetchFailure.BUSY
        except PeerMissing:
            return FetchFailure.MISSING
        except PeerBroken:
            return FetchFailure.BROKEN
        except PeerFailed:
            return FetchFailure.UNREACHABLE
        return None

    def _held_back(self, fetch: int) -> None:
        """Our own limit keeps a fetch waiting: it has not stalled."""
        self.do(self.node.fetch_held_back(fetch, now=trio.current_time()))

    async def _fetch_from_origin(self, effect: FetchFromOrigin, wish: Wish) -> FetchFailure | None:
        """From the first repository that gives it."""
        failure = FetchFailure.ORIGIN_UNAVAILABLE
        for name in wish.names:
            with RangeWriter(
                wish.partial,
                effect.start,
                effect.end,
                piece_bytes=wish.pieces.piece_bytes,
                judge=partial(self._judge, effect.fetch, effect.digest, wish.pieces),
                buffers=self._buffers,
                trusted=True,
            ) as writer:
                try:
                    chunks = self._origin_chunks(effect, wish, name)
                    progress = _Progress(self, effect.fetch)
                    async with aclosing(chunks):
                        async for chunk in chunks:
                            await writer.write(chunk)
                            if not wish.manifest:
                                self.counters.origin_bytes_received += len(chunk)
                            progress.tell(len(chunk))
                    if writer.position == effect.end:
                        return None
                    raise OriginUnavailable(
                        f"{name.registry} broke off {digest_text(effect.digest)}"
                    )
                except OriginError as error:
                    wish.failure = error
                    _log.info("%s: %s", name, error)
                    if isinstance(error, OriginMissing | OriginDenied | OriginBroken):
                        failure = FetchFailure.ORIGIN_REFUSED
        return failure

    async def _origin_chunks(
        self, effect: FetchFromOrigin, wish: Wish, name: RepositoryName
    ) -> AsyncGenerator[bytes]:
        """The bytes of a range as the origin gives them. Raises: OriginError."""
        text = digest_text(effect.digest)
        size = wish.pieces.size_bytes
        if wish.manifest:
            found = await self._origins.manifest(
                name.registry, name.repository, text, accept=MANIFEST_TYPES
            )
            if len(found.data) != size:
                raise OriginBroken(f"{name}: {text} has {len(found.data)} bytes, not {size}")
            yield found.data[effect.start : effect.end]
            return
        async with self._origins.open_blob(
            name.registry,
            name.repository,
            effect.digest,
            start=effect.start,
            end=effect.end,
            held_back=partial(self._held_back, effect.fetch),
        ) as blob:
            self.do(self.node.fetch_answered(effect.fetch, now=trio.current_time()))
            if blob.size_bytes not in (None, size):
                raise OriginBroken(f"{name}: {text} has {blob.size_bytes} bytes, not {size}")
            async for chunk in blob.chunks:
                yield chunk

    def _judge(
        self, fetch: int, digest: Digest, pieces: Pieces, start: int, end: int, blake3: bytes
    ) -> bool:
        """Whether a piece that has come is right, for all the core knows."""
        piece = pieces.at(start)
        effects = self.node.piece_arrived(fetch, piece, blake3, now=trio.current_time())
        self.do(effects)
        return PieceAccepted(digest, piece) in effects

    async def _keep_time(self) -> None:
        while True:
            now = await self._alarm.ring()
            self.do(self.node.advance(now=now))


class _Progress:
    """Tells the core now and then how far a fetch is."""

    def __init__(self, driver: SwarmDriver, fetch: int, *, from_peer: bool = False) -> None:
        self._driver = driver
        self._from_peer = from_peer
        self._fetch = fetch
        self._bytes = 0
        self._told_at = 0.0

    def tell(self, more_bytes: int) -> None:
        """So many bytes more have come."""
        self._bytes += more_bytes
        if self._from_peer:
            self._driver.counters.peer_bytes_received += more_bytes
        now = trio.current_time()
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            self._driver.do(self._driver.node.fetch_progressed(self._fetch, self._bytes, now=now))
