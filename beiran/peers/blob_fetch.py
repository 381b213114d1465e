"""Fetch ranges of blobs from other agents, straight into a blob in flight.

Why by hand: 2 GiB over loopback on 2 cores, hashed with SHA-256 and written to a file: httpx
0.22 GB/s at 4.5 CPU-s per GB; h11 for the head with ``recv_into`` 1 MiB buffers and the hash in a
thread 0.64 GB/s at 2.0, which this is. ``python -m benchmarks.serving`` measures it.

HTTP/1.1 over kept-alive connections, several to a peer. ``socket_reader.py`` receives the body
into the buffers of ``cache/range_writer.py``, which hashes and writes them in a thread, a hop for
each MiB. The swarm driver calls ``PeerBlobs.fetch``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from beiran.cache.partial_blob import PartialBlob
from beiran.cache.range_writer import Buffers, Judge, RangeWriter
from beiran.errors import BeiranError
from beiran.gossip.membership.member import Address
from beiran.http.blob_response import ACTIVE_HEADER, NODE_HEADER
from beiran.http.pool import Pool
from beiran.http.token_bucket import Pace
from beiran.ids import Digest, NodeId, digest_text, node_id_text
from beiran.peers.peer_client import PeerRefused, PeerUnreachable, open_stream
from beiran.peers.response_head import BadAnswer, OtherSize, RangeHead, read_head
from beiran.peers.socket_reader import Wire

# Chosen, not measured. More connections to one peer hide its disk, and take its upload slots.
CONNECTIONS_PER_PEER_MAX: Final = 4
IDLE_TIMEOUT_S: Final = 10.0
IDLE_CONNECTIONS_MAX: Final = 64  # to all peers together

DRAIN_BYTES_MAX: Final = 64 * 1024
"""The longest body of an error that is read to its end, so that its connection can be kept."""

OpenStream = Callable[[Address], Awaitable[trio.abc.Stream]]
"""Connects to an agent. Raises: PeerRefused, PeerUnreachable."""


class PeerFailed(BeiranError):
    """A range, or a part of it, did not arrive.

    Attributes:
      position: the next byte to fetch elsewhere. Those before it are in the file.
    """

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class PeerBusy(PeerFailed):
    """The peer is at its limit (429, 503). ``retry_after_s`` is its ``Retry-After``, or None."""

    retry_after_s: float | None = None


class PeerMissing(PeerFailed):
    """The peer lacks the blob or these bytes of it (404, 410, 416).

    Or it has a blob of another size under that digest.
    """


class PeerBroken(PeerFailed):
    """The connection broke or stalled, or the answer is not the requested range."""


class PeerNotReached(PeerFailed, PeerUnreachable):
    """No agent answers at that address: refused, no route, or no connection in time."""


class _Lost(Exception):
    """A connection ended before any byte of the answer: the peer had closed it before."""


@asynccontextmanager
async def open_peer_blobs(
    *, own: NodeId | None = None, open_stream: OpenStream = open_stream
) -> AsyncIterator["PeerBlobs"]:
    """Fetches from agents. Idle connections are closed when the context is left.

    Args:
      own: the node that fetches, for peers that see several agents at one address.
    """
    async with trio.open_nursery() as nursery:
        yield PeerBlobs(nursery, own, open_stream)
        nursery.cancel_scope.cancel()


class PeerBlobs:
    """Fetches ranges of blobs from agents. Made by ``open_peer_blobs``."""

    def __init__(self, nursery: trio.Nursery, own: NodeId | None, open_stream: OpenStream) -> None:
        self._open_stream: Final = open_stream
        self._node_header: Final = "" if own is None else f"{NODE_HEADER}: {node_id_text(own)}\r\n"
        self._buffers: Final = Buffers()
        self._pool: Final = Pool[Address, Wire](
            nursery,
            per_place_max=CONNECTIONS_PER_PEER_MAX,
            idle_max=IDLE_CONNECTIONS_MAX,
            idle_timeout_s=IDLE_TIMEOUT_S,
        )

    async def fetch(
        self,
        address: Address,
        digest: Digest,
        start: int,
        end: int,
        into: PartialBlob,
        *,
        piece_bytes: int,
        judge: Judge,
        progress: Callable[[int], None] | None = None,
        stall_timeout_s: float,
        pace: Pace | None = None,
        active: int = 0,
    ) -> None:
        """Fetch the bytes ``start`` to ``end`` of a blob from the agent at ``address``.

        Args:
          piece_bytes: the size of a piece; the last one may be shorter.
          judge: called with each complete piece and its BLAKE3; says whether to hold it. Not
            called for pieces that another fetch held meanwhile.
          progress: called with the number of bytes as they arrive.
          stall_timeout_s: the limit for connecting, and for each wait for the next bytes.
          pace: the download limit, shared by all fetches.
          active: how many fetches bring this node bytes now. A busy peer serves the node with the
            fewest first.

        Raises: PeerFailed (one of PeerBusy, PeerMissing, PeerBroken, PeerNotReached); CacheFull,
        BlobMissing (``into`` was closed) and OSError, which are not the peer's fault.
        """
        writer = RangeWriter(
            into, start, end, piece_bytes=piece_bytes, judge=judge, buffers=self._buffers
        )
        fetch = _Fetch(
            address,
            digest,
            writer,
            progress,
            stall_timeout_s,
            pace,
            headers=f"{self._node_header}{ACTIVE_HEADER}: {active}\r\n",
        )
        try:
            with writer:
                async with self._pool.turn(address):
                    await self._fetch(fetch)
        except PeerFailed as failure:
            failure.position = writer.resume_at
            raise

    async def _fetch(self, fetch: "_Fetch") -> None:
        while True:
            wire = self._pool.take(fetch.address)
            reused = wire is not None
            if wire is None:
                wire = await self._connect(fetch)
            keep = False
            try:
                keep = await fetch.run(wire)
                return
            except _Lost:
                if not reused:
                    raise PeerBroken(
                        f"{fetch.address} closed the connection without an answer"
                    ) from None
            except _Declined as declined:
                keep = declined.reusable
                raise declined.failure from None
            finally:
                if keep:
                    self._pool.keep(fetch.address, wire)
                else:
                    wire.close()

    async def _connect(self, fetch: "_Fetch") -> Wire:
        try:
            with trio.fail_after(fetch.stall_timeout_s):
                return Wire(await self._open_stream(fetch.address))
        except trio.TooSlowError:
            message = f"no connection to {fetch.address} within {fetch.stall_timeout_s:g} s"
            raise PeerNotReached(message) from None
        except (PeerRefused, PeerUnreachable) as error:
            raise PeerNotReached(str(error)) from None


class _Declined(Exception):
    """The peer refused; ``reusable``: its answer was read to its end."""

    def __init__(self, failure: PeerFailed, *, reusable: bool) -> None:
        self.failure = failure
        self.reusable = reusable


class _Fetch:
    """One range from one peer."""

    def __init__(
        self,
        address: Address,
        digest: Digest,
        writer: RangeWriter,
        progress: Callable[[int], None] | None,
        stall_timeout_s: float,
        pace: Pace | None,
        *,
        headers: str,
    ) -> None:
        self.address: Final = address
        self.stall_timeout_s: Final = stall_timeout_s
        self._digest: Final = digest
        self._writer: Final = writer
        self._progress: Final = progress
        self._pace: Final = pace
        self._headers: Final = headers

    async def run(self, wire: Wire) -> bool:
        """Send the request and receive the answer. Returns: whether the connection can be kept.

        Raises: _Lost; _Declined; PeerBroken; what ``RangeWriter`` raises.
        """
        start, end = self._writer.position, self._writer.end
        request = (
            f"GET /blobs/{digest_text(self._digest)} HTTP/1.1\r\nHost: {self.address}\r\n"
            f"{self._headers}Range: bytes={start}-{end - 1}\r\n\r\n"
        )
        try:
            head, rest = await self._head(wire, request.encode("ascii"))
            if head.status not in (200, 206):
                raise await self._declined(wire, head, rest)
            head.check_range(start, end, self._writer.blob_bytes)
            if len(rest) > end - start:
                raise BadAnswer("the peer sends more bytes than were requested")
            if rest:
                await self._writer.write(rest)
                self._report(len(rest))
            while self._writer.position < end:
                await self._receive(wire)
        except OtherSize as error:
            raise PeerMissing(f"{self.address}: {error}") from None
        except BadAnswer as error:
            raise PeerBroken(f"{self.address}: {error}") from None
        return head.reusable

    async def _head(self, wire: Wire, request: bytes) -> tuple[RangeHead, bytes]:
        received = bytearray()
        with trio.move_on_after(self.stall_timeout_s):
            if not await wire.send(request):
                raise _Lost
            while (found := read_head(received)) is None:
                data = await wire.receive()
                if not data and not received:
                    raise _Lost
                if not data:
                    raise BadAnswer("the connection ended within the head of an answer")
                received += data
            head, size = found
            return head, bytes(received[size:])
        raise BadAnswer(f"no answer within {self.stall_timeout_s:g} s")

    async def _receive(self, wire: Wire) -> None:
        space = self._writer.space()
        if self._pace is not None:
            await self._pace.take(len(space))
        left = len(space)
        while left:
            space = self._writer.space()
            count = await wire.receive_into(space, self.stall_timeout_s)
            if not count:
                raise BadAnswer(f"the connection ended at byte {self._writer.position} of the blob")
            left -= count
            self._report(count)
            await self._writer.filled(count)

    async def _declined(self, wire: Wire, head: RangeHead, rest: bytes) -> _Declined:
        """The failure that a status means. Reads a short body, to keep the connection."""
        message = f"{self.address} answered {head.status}"
        failure: PeerFailed
        if head.status in (429, 503):
            failure = busy = PeerBusy(message)
            busy.retry_after_s = head.retry_after_s
        elif head.status in (404, 410, 416):
            failure = PeerMissing(message)
        else:
            failure = PeerBroken(message)
        missing = head.length - len(rest)
        reusable = head.reusable and 0 <= missing <= DRAIN_BYTES_MAX
        with trio.move_on_after(self.stall_timeout_s):
            while reusable and missing > 0:
                data = await wire.receive()
                missing -= len(data)
                reusable = bool(data)
        return _Declined(failure, reusable=reusable and missing == 0)

    def _report(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)
