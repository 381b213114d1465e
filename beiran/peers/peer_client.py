"""How an agent asks other agents over TCP: few connections, kept while they are of use.

A connection that idles is watched: when the other end closes it, it is gone here as well, and
after ``IDLE_TIMEOUT_S`` we close it, so that agents at rest send each other nothing.
"""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final, NamedTuple, TypeVar

import msgspec
import trio

from beiran.errors import BeiranError, RemoteProtocolError
from beiran.gossip.membership.member import Address
from beiran.http.connection import Answer, ConnectionLost, HttpConnection
from beiran.http.messages import WATCH_PROTOCOL

IDLE_TIMEOUT_S: Final = 10.0
CONNECTIONS_PER_PEER_MAX: Final = 4
IDLE_CONNECTIONS_MAX: Final = 64
"""To all peers together; the one that idles longest is closed first."""

JSON_BYTES_MAX: Final = 1024 * 1024
WATCH_OPEN_TIMEOUT_S: Final = 5.0

T = TypeVar("T")


class PeerRefused(BeiranError):
    """The peer's host answers, and nobody listens on that port."""


class PeerUnreachable(BeiranError):
    """No answer: no route, no reply in time, or the connection broke."""


class PeerDeclined(RemoteProtocolError):
    """The peer answered with an error. ``status`` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class WatchOutcome(Enum):
    """How a held connection ended.

    ``REFUSED``: nobody listens there. ``CLOSED``: it was open, and the other end closed it.
    ``UNREACHABLE``: no answer, or none any more. ``DECLINED``: somebody answers there who does
    not want it held (enough others do, or it is no agent).
    """

    REFUSED = "refused"
    CLOSED = "closed"
    UNREACHABLE = "unreachable"
    DECLINED = "declined"


class PeerClient:
    """Asks agents. ``serve`` must run meanwhile; cancelling it closes all idle connections."""

    def __init__(self) -> None:
        self._peers: dict[Address, _Peer] = {}
        self._idle: dict[HttpConnection, _Idling] = {}  # the oldest first
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections, until cancelled. Without it every request has one of its own."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def post(
        self,
        address: Address,
        path: str,
        body: bytes,
        *,
        timeout_s: float,
        response_bytes_max: int,
    ) -> bytes:
        """POST ``body``; the body of the answer. May be sent twice if the peer restarted.

        Raises: PeerRefused; PeerUnreachable, also after ``timeout_s``; PeerDeclined for a status
        other than 200; RemoteProtocolError for what is no HTTP, or longer than
        ``response_bytes_max``.
        """
        return await self._ask(address, "POST", path, body, timeout_s, response_bytes_max)

    async def get(
        self, address: Address, path: str, *, timeout_s: float, response_bytes_max: int
    ) -> bytes:
        """GET; the body of the answer. Raises: as ``post``."""
        return await self._ask(address, "GET", path, b"", timeout_s, response_bytes_max)

    async def get_json(self, address: Address, path: str, type: type[T], *, timeout_s: float) -> T:
        """GET a JSON document. Fields that we do not know are ignored.

        Raises: as ``post``; RemoteProtocolError for a document that is not a ``type``.
        """
        body = await self._ask(address, "GET", path, b"", timeout_s, JSON_BYTES_MAX)
        try:
            return msgspec.json.decode(body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteProtocolError(f"{address}{path} cannot be read: {error}") from None

    async def watch_connection(self, address: Address, path: str) -> WatchOutcome:
        """Open a connection that says nothing, and wait for its end.

        Opening it may take ``WATCH_OPEN_TIMEOUT_S``; after that it lasts until the other end
        closes it, the network tells that it is broken, or this is cancelled.
        """
        headers = [("Connection", "Upgrade"), ("Upgrade", WATCH_PROTOCOL)]
        connection = None
        try:
            with trio.fail_after(WATCH_OPEN_TIMEOUT_S):
                connection = await _connect(address)
                answer = await connection.ask("GET", path, headers=headers)
            if answer.status != 101:
                return WatchOutcome.DECLINED
            return await _wait_for_end(connection.stream)
        except PeerRefused:
            return WatchOutcome.REFUSED
        except (PeerUnreachable, trio.TooSlowError):
            return WatchOutcome.UNREACHABLE
        except ConnectionLost:
            return WatchOutcome.CLOSED
        except RemoteProtocolError:
            return WatchOutcome.DECLINED
        finally:
            if connection is not None:
                connection.close()

    async def _ask(
        self,
        address: Address,
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        bytes_max: int,
    ) -> bytes:
        try:
            with trio.fail_after(timeout_s):
                async with self._place_at(address) as peer:
                    return await self._exchange(peer, method, path, body, bytes_max)
        except trio.TooSlowError:
            raise PeerUnreachable(f"{address} did not answer within {timeout_s:g} s") from None
        except ConnectionLost as error:
            raise PeerUnreachable(f"{address}: {error}") from None

    @asynccontextmanager
    async def _place_at(self, address: Address) -> "AsyncIterator[_Peer]":
        """Wait until few enough others talk to that peer."""
        peer = self._peers.setdefault(address, _Peer(address))
        peer.users += 1
        try:
            async with peer.limiter:
                yield peer
        finally:
            peer.users -= 1
            self._forget_unused(peer)

    async def _exchange(
        self, peer: "_Peer", method: str, path: str, body: bytes, bytes_max: int
    ) -> bytes:
        """Ask on an idle connection; if the peer had closed it before it heard us, on a new one."""
        while True:
            connection = self._take_idle(peer)
            reused = connection is not None
            if connection is None:
                connection = await _connect(peer.address)
            try:
                answer = await connection.ask(method, path, body=body)
                data = await connection.read(bytes_max=bytes_max)
                if connection.reusable:
                    self._keep(peer, connection)
            except ConnectionLost as error:
                if not reused or error.answered:
                    raise
                continue
            finally:
                if connection not in self._idle:
                    connection.close()
            return _body_of(peer.address, path, answer, data)

    def _take_idle(self, peer: "_Peer") -> HttpConnection | None:
        if not peer.idle:
            return None
        connection = peer.idle[-1]
        self._wake(connection)
        return connection

    def _keep(self, peer: "_Peer", connection: HttpConnection) -> None:
        if self._nursery is None:
            return
        if len(self._idle) >= IDLE_CONNECTIONS_MAX:
            oldest = next(iter(self._idle))
            self._wake(oldest)
            oldest.close()
        idling = _Idling(peer, trio.CancelScope(deadline=trio.current_time() + IDLE_TIMEOUT_S))
        self._idle[connection] = idling
        peer.idle.append(connection)
        self._nursery.start_soon(self._watch_idle, connection, idling)

    def _wake(self, connection: HttpConnection) -> None:
        """It idles no more."""
        idling = self._idle.pop(connection)
        idling.peer.idle.remove(connection)
        idling.scope.cancel()
        self._forget_unused(idling.peer)

    async def _watch_idle(self, connection: HttpConnection, idling: "_Idling") -> None:
        """Wait until it is taken, has idled long enough, or the other end closes it."""
        try:
            with idling.scope:
                await trio.lowlevel.checkpoint_if_cancelled()  # else two tasks wait for one socket
                await trio.lowlevel.wait_readable(connection.stream.socket.fileno())
        finally:
            if self._idle.get(connection) is idling:
                self._wake(connection)
                connection.close()

    def _forget_unused(self, peer: "_Peer") -> None:
        if not peer.users and not peer.idle:
            self._peers.pop(peer.address, None)


class _Idling(NamedTuple):
    """A connection's peer, and what ends the wait for what may happen to it."""

    peer: "_Peer"
    scope: trio.CancelScope


class _Peer:
    """What is under way with one peer."""

    def __init__(self, address: Address) -> None:
        self.address: Final = address
        self.limiter: Final = trio.CapacityLimiter(CONNECTIONS_PER_PEER_MAX)
        self.idle: Final[list[HttpConnection]] = []
        self.users = 0


async def open_stream(address: Address) -> trio.SocketStream:
    """A TCP connection to an agent. Raises: PeerRefused, PeerUnreachable."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((address.host, address.port))
    except ConnectionRefusedError:
        sock.close()
        raise PeerRefused(f"nobody listens at {address}") from None
    except OSError as error:
        sock.close()
        raise PeerUnreachable(f"{address}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def _connect(address: Address) -> HttpConnection:
    """Raises: PeerRefused, PeerUnreachable."""
    return HttpConnection(await open_stream(address), str(address))


async def _wait_for_end(stream: trio.SocketStream) -> WatchOutcome:
    try:
        while await stream.socket.recv(1):
            pass  # it has nothing to say, but saying something is not ending
    except OSError as error:
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return WatchOutcome.CLOSED
        return WatchOutcome.UNREACHABLE
    return WatchOutcome.CLOSED


def _body_of(address: Address, path: str, answer: Answer, body: bytes) -> bytes:
    if answer.status != 200:
        raise PeerDeclined(f"{address}{path} answered {answer.status}", answer.status)
    return body
