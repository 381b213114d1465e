"""The loop around the swarm core: datagrams, time and results of fetches in, effects out.

The core decides which piece is fetched from whom; the driver fetches. Bytes go from the socket into
the partial blob of a ``BlobDownload``; the core learns how far each fetch is and the BLAKE3 of each
piece. Each effect that concerns a blob changes that blob's download, found by its digest.

Everything runs in one trio thread, so the core sees its inputs one after the other.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import trio
from msgspec import Struct

from beiran.cache.errors import BlobMissing, CacheFull
from beiran.cache.range_writer import Buffers, RangeWriter
from beiran.gossip.membership.member import Address
from beiran.http.token_bucket import Pace, TokenBucket
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import BlobUnknown, MirrorError, Unavailable, mirror_error
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
    PeerBanned,
    PeerUnbanned,
    PieceAccepted,
    PieceRevoked,
    SendDatagram,
    UploadAdmitted,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.transfer.blob_download import BlobDownload, BlobRequest

PEER_STALL_S: Final = 10.0
"""How long a peer may send nothing before its connection is closed. The core leaves a stalled peer
after 0.8 s (``SwarmConfig.stalled_s``) where it has another source; this ends the fetch that it has
no reason to leave. Chosen."""

PROGRESS_S: Final = 0.1
"""How often the core learns of bytes within a piece: an eighth of ``SwarmConfig.stalled_s``."""

_log: Final = logging.getLogger(__name__)


class TransferCounters(Struct):
    """Bytes of blobs since the start.

    Attributes:
      wasted_bytes: received and not used, or received twice; of downloads that have ended.
    """

    origin_bytes_received: int = 0
    peer_bytes_received: int = 0
    wasted_bytes: int = 0


class UploadPermit:
    """An upload that the core let in: its bytes may be sent once it is ``admitted``."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.admitted: Final = trio.Event()


class SwarmDriver:
    """Drives one swarm core, in tasks of ``nursery``.

    Args:
      send: sends a datagram to an agent.
      name_of: how the log names a node.
      peer_bytes: the limit on what all peers together send to this node.

    Attributes:
      downloads: the blobs that the core fetches, by digest: from ``want`` to their end.
    """

    def __init__(
        self,
        node: SwarmNode,
        nursery: trio.Nursery,
        *,
        send: Callable[[bytes, Address], object],
        peers: PeerBlobs,
        origins: OriginClient,
        name_of: Callable[[NodeId], str],
        peer_bytes: TokenBucket,
    ) -> None:
        self.node: Final = node
        self.downloads: Final[dict[Digest, BlobDownload]] = {}
        self.counters: Final = TransferCounters()
        self._nursery: Final = nursery
        self._send: Final = send
        self._peers: Final = peers
        self._origins: Final = origins
        self._name_of: Final = name_of
        self._peer_bytes: Final = peer_bytes
        self._buffers: Final = Buffers()
        self._fetches: dict[int, trio.CancelScope] = {}
        self._permits: dict[int, UploadPermit] = {}
        self._alarm: Final = Alarm(node.next_deadline)
        nursery.start_soon(self._keep_time)

    def close(self) -> None:
        """End every download because the agent stops. The bytes that are held stay on disk."""
        for download in self.downloads.values():
            download.partial.close()
            download.end(Unavailable("the agent is stopping"))
        self.downloads.clear()

    # --- inputs -----------------------------------------------------------------------------

    def set_members(
        self, members: Mapping[NodeId, Address], generations: Mapping[NodeId, int]
    ) -> None:
        """The other members that are online, and the generations of all agents."""
        now = trio.current_time()
        self.do(self.node.set_members(members, now=now, generations=generations))

    def receive(self, data: bytes, source: Address) -> None:
        """A swarm datagram arrived."""
        self.do(self.node.receive_datagram(data, source, now=trio.current_time()))

    def provide(self, digest: Digest, size_bytes: int) -> None:
        """This node has a whole blob and can serve it."""
        self.do(self.node.provide(digest, size_bytes, now=trio.current_time()))

    def withdraw(self, digest: Digest) -> None:
        """This node no longer has a blob that it provided."""
        self.do(self.node.withdraw(digest, now=trio.current_time()))

    def want(
        self,
        download: BlobDownload,
        request: BlobRequest,
        *,
        held: Mapping[int, bytes] | None = None,
    ) -> None:
        """Fetch a blob, or add the sources of another request to its download.

        Args:
          held: the BLAKE3 of each piece that the partial blob has already.
        """
        self.downloads[download.digest] = download
        if request.from_origin and request.name not in download.origins:
            download.origins.append(request.name)
        wanted = BlobWanted(
            digest=download.digest,
            size_bytes=download.size_bytes,
            from_origin=bool(download.origins),
            rank=request.rank,
            sources=request.sources,
        )
        self.do(self.node.want(wanted, now=trio.current_time(), pieces_held=held))

    def give_up(self, download: BlobDownload, failure: MirrorError) -> None:
        """End a download; does nothing if it has ended."""
        if self._remove(download):
            self.do(self.node.drop(download.digest, now=trio.current_time()))
            download.partial.close()
            download.end(failure)

    def wasted_now_bytes(self) -> int:
        """Bytes that were wasted on the blobs in flight."""
        return sum(self._wasted_bytes(digest) for digest in self.downloads)

    def _wasted_bytes(self, digest: Digest) -> int:
        progress = self.node.progress(digest)
        return 0 if progress is None else progress.wasted_bytes

    def _remove(self, download: BlobDownload) -> bool:
        """Take a download out of the table. Returns: False if it has ended already."""
        if self.downloads.get(download.digest) is not download:
            return False
        self.counters.wasted_bytes += self._wasted_bytes(download.digest)
        del self.downloads[download.digest]
        return True

    def begin_upload(
        self, digest: Digest, start: int, node: NodeId, *, active: int
    ) -> UploadPermit | None:
        """A peer asks for bytes of a blob. Call ``end_upload`` when its answer has been sent.

        Args:
          start: the first byte that it asks for.
          active: how many other fetches bring it bytes now, as it says.

        Returns: None when too many peers are being served.
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

    def end_upload(self, permit: UploadPermit, bytes_sent: int) -> None:
        """An upload is over, whether all of it was sent or not."""
        self._permits.pop(permit.number, None)
        self.do(self.node.end_upload(permit.number, bytes_sent, now=trio.current_time()))

    async def _keep_time(self) -> None:
        while True:
            now = await self._alarm.ring()
            self.do(self.node.advance(now=now))

    # --- effects ----------------------------------------------------------------------------

    def do(self, effects: Sequence[Effect]) -> None:
        """Carry out what the core decided."""
        for effect in effects:
            match effect:
                case SendDatagram(to=to, data=data):
                    self._send(data, to)
                case FetchFromPeer() | FetchFromOrigin():
                    scope = self._fetches[effect.fetch] = trio.CancelScope()
                    self._nursery.start_soon(self._run, effect, scope)
                case CancelFetch(fetch=fetch):
                    if fetch in self._fetches:
                        self._fetches.pop(fetch).cancel()
                case PieceAccepted(digest=digest):
                    if digest in self.downloads:
                        self.downloads[digest].first_bytes.set()
                case PieceRevoked(digest=digest, piece=piece):
                    if digest in self.downloads:
                        self.downloads[digest].release(piece)
                case BlobComplete(digest=digest):
                    if digest in self.downloads:
                        self._nursery.start_soon(self._verify, self.downloads[digest])
                case BlobStuck(digest=digest, reason=reason):
                    if digest in self.downloads:
                        download = self.downloads[digest]
                        self.give_up(download, _why_stuck(download, reason))
                case PeerBanned(node=node, reason=reason):
                    _log.warning("stopped fetching from %s: %s", self._name_of(node), reason)
                case PeerUnbanned(node=node):
                    _log.info("fetching from %s again", self._name_of(node))
                case UploadAdmitted(upload=number):
                    if number in self._permits:
                        self._permits[number].admitted.set()
        self._alarm.look()

    async def _verify(self, download: BlobDownload) -> None:
        """Check the SHA-256 of a blob whose pieces were all accepted."""
        digest = download.digest
        try:
            is_right = await download.partial.verify()
        except OSError as error:
            self.give_up(download, Unavailable(f"{digest_text(digest)}: {error}"))
            return
        if self.downloads.get(digest) is not download:
            return
        if is_right:
            self._remove(download)
            self.do(self.node.verified(digest, now=trio.current_time()))
            download.end()
        else:
            _log.warning("%s has a wrong SHA-256: looking for the wrong piece", digest_text(digest))
            self.do(self.node.damaged(digest, now=trio.current_time()))

    # --- fetches ----------------------------------------------------------------------------

    async def _run(self, effect: FetchFromPeer | FetchFromOrigin, scope: trio.CancelScope) -> None:
        """One fetch, to its end, which the core learns unless it cancelled the fetch."""
        download = self.downloads.get(effect.digest)
        failure: FetchFailure | None = FetchFailure.BROKEN
        if download is not None:
            with scope:
                try:
                    if isinstance(effect, FetchFromPeer):
                        failure = await self._fetch_from_peer(effect, download)
                    else:
                        failure = await self._fetch_from_origin(effect, download)
                except BlobMissing:  # the download was given up meanwhile
                    failure = FetchFailure.BROKEN
                except (CacheFull, OSError) as error:
                    self.give_up(download, _why_stuck(download, str(error)))
        if self._fetches.get(effect.fetch) is not scope or scope.cancelled_caught:
            return
        del self._fetches[effect.fetch]
        now = trio.current_time()
        if failure is None:
            self.do(self.node.fetch_done(effect.fetch, now=now))
        else:
            self.do(self.node.fetch_failed(effect.fetch, failure, now=now))

    async def _fetch_from_peer(
        self, effect: FetchFromPeer, download: BlobDownload
    ) -> FetchFailure | None:
        fetch = _Fetch(self, effect, download)
        try:
            await self._peers.fetch(
                effect.address,
                effect.digest,
                effect.start,
                effect.end,
                download.partial,
                piece_bytes=download.pieces.piece_bytes,
                judge=fetch.judge,
                progress=fetch.received,
                stall_timeout_s=PEER_STALL_S,
                pace=Pace(self._peer_bytes, fetch.held_back),
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

    async def _fetch_from_origin(
        self, effect: FetchFromOrigin, download: BlobDownload
    ) -> FetchFailure | None:
        """Fetch from the first repository that gives the bytes."""
        failure = FetchFailure.ORIGIN_UNAVAILABLE
        for name in download.origins:
            fetch = _Fetch(self, effect, download)
            with RangeWriter(
                download.partial,
                effect.start,
                effect.end,
                piece_bytes=download.pieces.piece_bytes,
                judge=fetch.judge,
                buffers=self._buffers,
                trusted=True,
            ) as writer:
                try:
                    async with aclosing(self._origin_chunks(effect, fetch, name)) as chunks:
                        async for chunk in chunks:
                            await writer.write(chunk)
                            fetch.received(len(chunk))
                    if writer.position == effect.end:
                        return None
                    raise OriginUnavailable(
                        f"{name.registry} broke off {digest_text(effect.digest)}"
                    )
                except OriginError as error:
                    download.origin_failure = error
                    _log.info("%s: %s", name, error)
                    if isinstance(error, OriginMissing | OriginDenied | OriginBroken):
                        failure = FetchFailure.ORIGIN_REFUSED
        return failure

    async def _origin_chunks(
        self, effect: FetchFromOrigin, fetch: "_Fetch", name: RepositoryName
    ) -> AsyncGenerator[bytes]:
        """The bytes of a range, as they arrive from the origin. Raises: OriginError."""
        text = digest_text(effect.digest)
        size = fetch.download.size_bytes
        if fetch.download.is_manifest:
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
            held_back=fetch.held_back,
        ) as blob:
            self.do(self.node.fetch_answered(effect.fetch, now=trio.current_time()))
            if blob.size_bytes not in (None, size):
                raise OriginBroken(f"{name}: {text} has {blob.size_bytes} bytes, not {size}")
            async for chunk in blob.chunks:
                yield chunk


class _Fetch:
    """What the core learns of one fetch while it runs."""

    def __init__(
        self, driver: SwarmDriver, effect: FetchFromPeer | FetchFromOrigin, download: BlobDownload
    ) -> None:
        self.download: Final = download
        self._driver: Final = driver
        self._number: Final = effect.fetch
        self._peer: Final = effect.node if isinstance(effect, FetchFromPeer) else None
        self._bytes = 0
        self._reported_at = 0.0

    def received(self, count: int) -> None:
        """``count`` more bytes arrived."""
        self._bytes += count
        self.download.received(count, self._peer)
        counters = self._driver.counters
        if self._peer is not None:
            counters.peer_bytes_received += count
        elif not self.download.is_manifest:
            counters.origin_bytes_received += count
        now = trio.current_time()
        if now - self._reported_at >= PROGRESS_S:
            self._reported_at = now
            node = self._driver.node
            self._driver.do(node.fetch_progressed(self._number, self._bytes, now=now))

    def held_back(self) -> None:
        """This node's own rate limit makes the fetch wait: it has not stalled."""
        driver = self._driver
        driver.do(driver.node.fetch_throttled(self._number, now=trio.current_time()))

    def judge(self, start: int, end: int, blake3: bytes) -> bool:
        """Whether the core accepts a piece that has arrived."""
        driver, piece = self._driver, self.download.pieces.at(start)
        now = trio.current_time()
        accepted, effects = driver.node.piece_arrived(self._number, piece, blake3, now=now)
        driver.do(effects)
        return accepted


def _why_stuck(download: BlobDownload, reason: str) -> MirrorError:
    """How a client of the mirror learns that no source is left."""
    if download.origin_failure is not None:
        return mirror_error(download.origin_failure, BlobUnknown)
    return Unavailable(f"{digest_text(download.digest)} cannot be had: {reason}")
