"""Ranges of blobs from one agent to another, and from whatever else may answer there."""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial as bound
from pathlib import Path

import pytest
import trio
import trio.testing
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from beiran.cache.blob_cache import BlobCache
from beiran.cache.errors import BlobMissing
from beiran.cache.partial_blob import PartialBlob
from beiran.errors import ApiError
from beiran.gossip.membership.member import Address
from beiran.http import token_bucket as rates
from beiran.http.blob_response import answer_blob
from beiran.http.listeners import open_tcp_listeners
from beiran.http.messages import Request, Response, Route
from beiran.http.token_bucket import Pace, TokenBucket
from beiran.ids import digest_text, parse_digest
from beiran.peers import blob_fetch as peer_blobs
from beiran.peers.blob_fetch import (
    PeerBlobs,
    PeerBroken,
    PeerBusy,
    PeerFailed,
    PeerMissing,
    open_peer_blobs,
)
from beiran.peers.peer_client import PeerUnreachable, open_stream
from beiran.peers.response_head import BadAnswer, read_head
from tests.cache.contents import bring, content, digest_of, read, write
from tests.http.serving import PATIENCE_S, Served, eventually, serve

MIB = 2**20
PIECE = 256 * 1024
DATA = content(7, 3 * MIB + 5)
DIGEST = digest_of(DATA)
HEAD = f"GET /blobs/{digest_text(DIGEST)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()


class Site:
    """A cache and what serves it."""

    def __init__(self, cache: BlobCache) -> None:
        self.cache = cache
        self.limiter = TokenBucket()

    def routes(self) -> list[Route]:
        return [
            Route(method="GET", pattern="/blobs/{digest}", handler=self.blob),
        ]

    async def blob(self, request: Request) -> Response:
        digest = parse_digest(request.path_args["digest"])
        flying = self.cache.in_flight(digest)
        if flying is not None:
            return answer_blob(request, flying, limiter=self.limiter)
        try:
            file = self.cache.open_file(digest)
        except BlobMissing as error:
            raise ApiError(404, "BLOB_UNKNOWN", str(error)) from None
        return answer_blob(request, file, limiter=self.limiter)


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    return Site(await BlobCache.open(tmp_path / "theirs", 100 * MIB))


@pytest.fixture
async def served(site: Site) -> AsyncIterator[Served]:
    async with serve(site.routes()) as server:
        yield server


@pytest.fixture
async def peers() -> AsyncIterator[PeerBlobs]:
    async with open_peer_blobs() as client:
        yield client


@pytest.fixture
async def into(tmp_path: Path) -> AsyncIterator[PartialBlob]:
    cache = await BlobCache.open(tmp_path / "ours", 100 * MIB)
    with closing(await cache.partial(DIGEST, len(DATA))) as opened:
        yield opened
    await opened.ended.wait()


class Judging:
    """Takes pieces whose hash is right, as the swarm does with what others announced."""

    def __init__(self, piece_bytes: int = PIECE) -> None:
        self.piece_bytes = piece_bytes
        self.accepted: list[int] = []
        self.rejected: list[int] = []

    def __call__(self, start: int, end: int, found: bytes) -> bool:
        assert start % self.piece_bytes == 0
        right = found == blake3(DATA[start:end]).digest()
        (self.accepted if right else self.rejected).append(start)
        return right


def at(served: Served) -> Address:
    return Address("127.0.0.1", served.port)


async def fetch(
    peers: PeerBlobs,
    address: Address,
    into: PartialBlob,
    start: int = 0,
    end: int = len(DATA),
    judging: Judging | None = None,
) -> Judging:
    judging = judging or Judging()
    await peers.fetch(
        address,
        DIGEST,
        start,
        end,
        into,
        piece_bytes=judging.piece_bytes,
        judge=judging,
        stall_timeout_s=20,
    )
    return judging


@asynccontextmanager
async def answering(*answers: bytes, close: bool = True) -> AsyncIterator[Address]:
    """A peer that answers each request with the next of ``answers``; an empty one closes."""
    left = list(answers)

    async def serve_one(connection: trio.SocketStream) -> None:
        async with connection:
            with suppress(trio.BrokenResourceError):
                while left:
                    if not await connection.receive_some():
                        return
                    answer = left.pop(0)
                    if not answer:
                        return
                    await connection.send_all(answer)
                if not close:
                    await connection.receive_some()

    listeners = await open_tcp_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_one, listeners)
        yield Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def answer_206(start: int, end: int, body: bytes, extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{end - 1}/{len(DATA)}\r\n"
        f"Content-Length: {end - start}\r\n{extra}\r\n"
    ).encode() + body


@pytest.mark.parametrize("piece_bytes", [PIECE, MIB, 2 * MIB, 8 * MIB])
async def test_a_blob_comes_whole(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob, piece_bytes: int
) -> None:
    await bring(site.cache, DATA)
    reported: list[int] = []
    judging = Judging(piece_bytes)
    await peers.fetch(
        at(served),
        DIGEST,
        0,
        len(DATA),
        into,
        piece_bytes=piece_bytes,
        judge=judging,
        progress=reported.append,
        stall_timeout_s=20,
    )
    assert judging.accepted == list(range(0, len(DATA), piece_bytes))
    assert sum(reported) == len(DATA)
    assert await into.verify()


async def test_ranges_come_over_few_connections(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)
    async with trio.open_nursery() as nursery:
        for start in range(0, len(DATA), PIECE):
            end = min(start + PIECE, len(DATA))
            nursery.start_soon(fetch, peers, at(served), into, start, end)
    assert served.counters.http_requests == 13
    assert served.counters.http_connections <= peer_blobs.CONNECTIONS_PER_PEER_MAX
    assert await into.verify()


async def test_a_connection_may_be_taken_the_moment_it_is_kept(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)

    async def fetch_in_a_row(first: int) -> None:
        for start in range(first, 2 * MIB, 2 * PIECE):
            await fetch(peers, at(served), into, start, start + PIECE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch_in_a_row, 0)
        nursery.start_soon(fetch_in_a_row, PIECE)
    assert list(into.held) == [(0, 2 * MIB)]
    assert served.counters.http_connections <= 2


async def test_an_idle_connection_is_closed_by_and_by(
    site: Site,
    served: Served,
    into: PartialBlob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await bring(site.cache, DATA)
    monkeypatch.setattr(peer_blobs, "IDLE_TIMEOUT_S", 0.01)
    async with open_peer_blobs() as peers:
        for start in (0, PIECE):
            await fetch(peers, at(served), into, start, start + PIECE)
            await eventually(lambda: served.counters.http_connections == 0)
    assert served.counters.http_requests == 2


async def test_a_connection_that_was_closed_meanwhile_is_replaced(
    peers: PeerBlobs, into: PartialBlob
) -> None:
    answers = [
        (answer_206(0, PIECE, DATA[:PIECE])),
        b"",  # the second request on the first connection: closed without an answer
        answer_206(PIECE, 2 * PIECE, DATA[PIECE : 2 * PIECE]),
    ]
    async with answering(*answers) as address:
        await fetch(peers, address, into, 0, PIECE)
        await fetch(peers, address, into, PIECE, 2 * PIECE)
    assert list(into.held) == [(0, 2 * PIECE)]


async def test_a_blob_in_flight_gives_what_it_holds(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    with closing(await site.cache.partial(DIGEST, len(DATA))) as flying:
        await write(flying, PIECE, DATA[PIECE : 3 * PIECE])
        await fetch(peers, at(served), into, PIECE, 3 * PIECE)
        for start, end in [(0, PIECE), (2 * PIECE, 4 * PIECE), (0, len(DATA))]:
            with pytest.raises(PeerMissing):
                await fetch(peers, at(served), into, start, end)
        assert b"404" in await served.exchange(HEAD + b"\r\n")
        assert served.counters.http_connections == 1
    assert list(into.held) == [(PIECE, 3 * PIECE)]


async def test_head_has_the_size(site: Site, served: Served) -> None:
    await bring(site.cache, DATA)
    answer = await served.exchange(HEAD.replace(b"GET", b"HEAD") + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert f"Content-Length: {len(DATA)}\r\n".encode() in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_range_outside_is_refused_and_nothing_stays_open(
    site: Site, served: Served
) -> None:
    await bring(site.cache, DATA)
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        answer = await served.exchange(HEAD + b"Range: bytes=99999999-\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 416")
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == files)
    await site.cache.resize(0)
    assert site.cache.digests == []


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", PeerMissing),
        (b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n", PeerMissing),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: 3\r\n\r\n", PeerBusy),
        (b"HTTP/1.1 429 No\r\nContent-Length: 99999999\r\n\r\n", PeerBusy),
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", PeerBroken),
        (b"HTTP/1.1 206 OK\r\nContent-Length: 1\r\n\r\nx", PeerBroken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 262144\r\n\r\n", PeerBroken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", PeerBroken),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", PeerBroken),
        (b"HTTP/1.1 206 OK\r\n", PeerBroken),
        (b"x" * 20_000, PeerBroken),
        (b"", PeerBroken),
        (answer_206(0, PIECE, b"").replace(b"bytes 0", b"bytes 1"), PeerBroken),
        (answer_206(0, PIECE, b"").replace(b"/%d" % len(DATA), b"/99999999"), PeerMissing),
    ],
)
async def test_each_kind_of_answer_has_its_failure(
    peers: PeerBlobs, into: PartialBlob, answer: bytes, failure: type[PeerFailed]
) -> None:
    async with answering(answer) as address:
        with pytest.raises(failure) as caught:
            await fetch(peers, address, into, 0, PIECE)
    assert caught.value.position == 0
    assert not into.held
    if isinstance(caught.value, PeerBusy) and b"Retry-After" in answer:
        assert caught.value.retry_after_s == 3
    assert into.claim(0, len(DATA)) is not None


async def test_a_refused_connection_is_unreachable(peers: PeerBlobs, into: PartialBlob) -> None:
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    address = Address("127.0.0.1", listener.socket.getsockname()[1])
    await listener.aclose()
    with pytest.raises(PeerUnreachable) as caught:
        await fetch(peers, address, into)
    assert isinstance(caught.value, PeerFailed)


async def test_a_peer_that_falls_silent_has_stalled(peers: PeerBlobs, into: PartialBlob) -> None:
    for body in (b"", DATA[: PIECE // 2]):
        async with answering(answer_206(0, PIECE, body), close=False) as address:
            with pytest.raises(PeerBroken, match="no byte arrived"):
                await peers.fetch(
                    address,
                    DIGEST,
                    0,
                    PIECE,
                    into,
                    piece_bytes=PIECE,
                    judge=Judging(),
                    stall_timeout_s=0.05,
                )


async def test_a_fetch_goes_on_at_the_byte_where_another_failed(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)
    judging = Judging(2 * MIB)
    cut = MIB + 1000
    async with answering(answer_206(0, len(DATA), DATA[:cut])) as address:
        with pytest.raises(PeerBroken) as caught:
            await fetch(peers, address, into, judging=judging)
    assert caught.value.position == cut
    await fetch(peers, at(served), into, cut, judging=judging)
    assert judging.accepted == [0, 2 * MIB]
    assert not judging.rejected
    assert await into.verify()


async def test_a_fetch_goes_on_after_the_bytes_of_a_cancelled_one(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)
    judging, cut, reported = Judging(), PIECE + 1000, 0
    stopped = trio.CancelScope()

    def progress(more_bytes: int) -> None:
        nonlocal reported
        reported += more_bytes
        if reported == cut:  # the core stops the fetch after the bytes that it has counted
            stopped.cancel()

    async with answering(answer_206(0, len(DATA), DATA[:cut]), close=False) as address:
        with stopped:
            await peers.fetch(
                address,
                DIGEST,
                0,
                len(DATA),
                into,
                piece_bytes=PIECE,
                judge=judging,
                progress=progress,
                stall_timeout_s=PATIENCE_S,
            )
    assert stopped.cancelled_caught
    await fetch(peers, at(served), into, cut, judging=judging)
    assert judging.accepted == list(range(0, len(DATA), PIECE))
    assert not judging.rejected
    assert await into.verify()


async def test_a_wrong_piece_is_not_held(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)
    lie = DATA[:PIECE] + bytes(PIECE) + DATA[2 * PIECE : 3 * PIECE]
    async with answering(answer_206(0, 3 * PIECE, lie)) as address:
        judging = await fetch(peers, address, into, 0, 3 * PIECE)
    assert (judging.accepted, judging.rejected) == ([0, 2 * PIECE], [PIECE])
    await fetch(peers, at(served), into, PIECE, 2 * PIECE)
    await fetch(peers, at(served), into, 3 * PIECE)
    assert await into.verify()


@pytest.mark.parametrize("piece_bytes", [MIB, 2 * MIB])
async def test_two_fetches_of_one_piece_do_not_mix(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob, piece_bytes: int
) -> None:
    """A slow misbehaving peer has the write claim; a faster peer's piece takes it over."""
    await bring(site.cache, DATA)
    lie = bytes(piece_bytes)
    more = trio.Event()
    judging = Judging(piece_bytes)

    async def lie_slowly(connection: trio.SocketStream) -> None:
        async with connection:
            await connection.receive_some()
            await connection.send_all(answer_206(0, piece_bytes, lie[: piece_bytes // 2 + 10]))
            await more.wait()
            await connection.send_all(lie[piece_bytes // 2 + 10 :])

    listeners = await open_tcp_listeners("127.0.0.1", 0)
    slow = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, lie_slowly, listeners)
        async with trio.open_nursery() as fetches:
            fetches.start_soon(bound(fetch, peers, slow, into, 0, piece_bytes, judging=judging))
            if piece_bytes > MIB:
                await eventually(lambda: bool(into._claims))
            await fetch(peers, at(served), into, 0, piece_bytes, judging=judging)
            assert judging.accepted == [0]
            more.set()
        nursery.cancel_scope.cancel()
    assert judging.rejected == []  # it was no longer needed, and not judged
    assert read(into, 0, piece_bytes) == DATA[:piece_bytes]


async def test_cancelling_frees_the_range(peers: PeerBlobs, into: PartialBlob) -> None:
    begun = answer_206(0, 2 * MIB, DATA[: MIB + 10])
    async with answering(begun, close=False) as address, trio.open_nursery() as nursery:
        nursery.start_soon(fetch, peers, address, into, 0, 2 * MIB, Judging(2 * MIB))
        await eventually(lambda: bool(into._claims))
        nursery.cancel_scope.cancel()
    assert into.claim(0, len(DATA)) is not None
    assert not into.held


async def test_closing_the_blob_ends_the_fetch(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)

    def judge(start: int, end: int, found: bytes) -> bool:
        into.close()
        return True

    with pytest.raises(BlobMissing):
        await peers.fetch(
            at(served),
            DIGEST,
            0,
            len(DATA),
            into,
            piece_bytes=PIECE,
            judge=judge,
            stall_timeout_s=20,
        )


@pytest.mark.needs("openssl")
async def test_bytes_come_over_tls_as_well(site: Site, tmp_path: Path, into: PartialBlob) -> None:
    await bring(site.cache, DATA)
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    paths = ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=x"]
    await trio.run_process([*command.split(), *paths], capture_stderr=True)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    ours = ssl.create_default_context(cafile=str(certificate))
    ours.check_hostname = False

    async def serve_one(plain: trio.SocketStream) -> None:
        async with trio.SSLStream(plain, theirs, server_side=True) as secure:
            with suppress(trio.BrokenResourceError):
                for start, end in [(0, MIB + 5), (MIB + 5, len(DATA))]:
                    await secure.receive_some()
                    await secure.send_all(answer_206(start, end, DATA[start:end]))
                await secure.receive_some()

    async def open_secure(address: Address) -> trio.abc.Stream:
        return trio.SSLStream(await open_stream(address), ours)

    listeners = await open_tcp_listeners("127.0.0.1", 0)
    address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
    async with open_peer_blobs(open_stream=open_secure) as peers, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_one, listeners)
        judging = Judging(2 * MIB)
        await fetch(peers, address, into, 0, MIB + 5, judging)
        await fetch(peers, address, into, MIB + 5, judging=judging)
        nursery.cancel_scope.cancel()
    assert judging.accepted == [0, 2 * MIB]
    assert await into.verify()


@given(st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 206 OK\r\n", b"HTTP/1.1 404"]))
def test_any_head_is_read_or_refused(noise: bytes, start: bytes) -> None:
    with suppress(BadAnswer):
        found = read_head(start + noise + b"\r\n\r\n")
        assert found is not None
        assert found[1] <= len(start + noise) + 4


async def test_uploads_keep_to_the_rate(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)
    site.limiter = TokenBucket(20 * MIB, burst_bytes=PIECE)
    began = trio.current_time()
    await fetch(peers, at(served), into)
    assert trio.current_time() - began >= (len(DATA) - PIECE) / (20 * MIB)
    assert await into.verify()


async def test_a_bucket_lets_through_at_its_rate(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(1000, burst_bytes=500)
    began = trio.current_time()
    took: list[float] = []
    for _ in range(5):
        await bucket.take(500)
        took.append(trio.current_time() - began)
    assert took == pytest.approx([0, 0.5, 1, 1.5, 2])
    await bucket.take(2000)  # more than fits waits for what fits, and is paid for afterwards
    await bucket.take(1)
    assert trio.current_time() - began == pytest.approx(4.001)
    await trio.sleep(100)  # a long rest earns no more than fits
    began = trio.current_time()
    await bucket.take(500)
    await bucket.take(500)
    assert trio.current_time() - began == pytest.approx(0.5)


async def test_a_bucket_serves_in_order_and_hears_of_another_rate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = TokenBucket(1, burst_bytes=1)
    order: list[int] = []

    async def take(number: int) -> None:
        await bucket.take(1000)
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(take, number)
            await trio.testing.wait_all_tasks_blocked()
        assert order == [0]
        bucket.bytes_per_s = 1000
        await trio.sleep(1.5)
        assert order == [0, 1]
        bucket.bytes_per_s = None
    assert order == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="rate"):
        bucket.bytes_per_s = 0


async def test_a_peer_that_our_own_limit_delays_has_not_stalled(
    site: Site, served: Served, peers: PeerBlobs, into: PartialBlob
) -> None:
    await bring(site.cache, DATA)
    reported: list[None] = []
    await peers.fetch(
        at(served),
        DIGEST,
        0,
        3 * PIECE,
        into,
        piece_bytes=PIECE,
        judge=Judging(),
        stall_timeout_s=PATIENCE_S,
        pace=Pace(TokenBucket(PIECE / (2 * rates.HELD_BACK_S)), lambda: reported.append(None)),
    )
    assert reported
