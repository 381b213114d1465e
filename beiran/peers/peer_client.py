"""Requests of an agent to other agents over TCP: documents, and watch connections.

Gossip (push-pull), ``/info``, tag and layer lookups and prefetch orders go through here. Blobs do
not: see ``blob_fetch.py``.
"""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio

from beiran.errors import BeiranError, RemoteProtocolError
from beiran.gossip.membership.member import Address
from beiran.http.connection import ConnectionLost, HttpConnection
from beiran.http.messages import WATCH_PROTOCOL
from beiran.http.pool import HttpPool

# Chosen, not measured. Requests to one peer come in bursts: a pull asks where its layers are.
IDLE_TIMEOUT_S: Final = 10.0
CONNECTIONS_PER_PEER_MAX: Final = 4
IDLE_CONNECTIONS_MAX: Final = 64  # to all peers together

JSON_BYTES_MAX: Final = 1024 * 1024  # ``/info`` takes some 5 KB; bounds what a peer can send
WATCH_OPEN_TIMEOUT_S: Final = 5.0  # a host that is away lets a connection attempt hang; chosen

T = TypeVar("T")


class PeerRefused(BeiranError):
    """The peer's host answers, and no program listens on that port."""


class PeerUnreachable(BeiranError):
    """The peer sent no answer: no route, no reply in time, or the connection broke."""


class PeerDeclined(RemoteProtocolError):
    """The peer answered with an error. ``status`` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class WatchOutcome(Enum):
    """How a watch connection ended.

    ``REFUSED``: no program listens there. ``CLOSED``: it was open, and the other end closed it.
    ``UNREACHABLE``: no answer, or none any more. ``DECLINED``: the answer is not 101, since the
    agent has ``WATCHERS_MAX`` watchers already, or since it is no agent.
    """

    REFUSED = "refused"
    CLOSED = "closed"
    UNREACHABLE = "unreachable"
    DECLINED = "declined"


@asynccontextmanager
async def open_peer_client() -> AsyncIterator["PeerClient"]:
    """A client of other agents. Its idle connections are closed when the context is left."""
    async with trio.open_nursery() as nursery:
        yield PeerClient(nursery)
        nursery.cancel_scope.cancel()


class PeerClient:
    """Sends requests to agents. Made by ``open_peer_client``."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._pool: Final = HttpPool[Address](
            nursery,
            _connect,
            per_place_max=CONNECTIONS_PER_PEER_MAX,
            idle_max=IDLE_CONNECTIONS_MAX,
            idle_timeout_s=IDLE_TIMEOUT_S,
        )

    async def post(
        self,
        address: Address,
        path: str,
        body: bytes,
        *,
        timeout_s: float,
        response_bytes_max: int,
    ) -> bytes:
        """POST ``body``; the body of the answer. It is sent twice if the peer restarts meanwhile.

        Raises: PeerRefused; PeerUnreachable, also after ``timeout_s``; PeerDeclined for a status
        other than 200; RemoteProtocolError for an answer that is not HTTP, or longer than
        ``response_bytes_max``.
        """
        return await self._ask(address, "POST", path, body, timeout_s, response_bytes_max)

    async def get(
        self, address: Address, path: str, *, timeout_s: float, response_bytes_max: int
    ) -> bytes:
        """GET; the body of the answer. Raises: as ``post``."""
        return await self._ask(address, "GET", path, b"", timeout_s, response_bytes_max)

    async def get_json(self, address: Address, path: str, type: type[T], *, timeout_s: float) -> T:
        """GET a JSON document. Fields that ``type`` does not have are ignored.

        Raises: as ``post``; RemoteProtocolError for a document that is not a ``type``.
        """
        body = await self._ask(address, "GET", path, b"", timeout_s, JSON_BYTES_MAX)
        try:
            return msgspec.json.decode(body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteProtocolError(f"{address}{path} cannot be read: {error}") from None

    async def watch_connection(self, address: Address, path: str) -> WatchOutcome:
        """Open a connection that carries nothing, and wait for its end.

        Opening it takes at most ``WATCH_OPEN_TIMEOUT_S``. Then it lasts until the other end closes
        it, the network reports that it is broken, or this is cancelled.
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
        ask = partial(self._pool.ask, address, method, path, body=body, repeatable=True)
        try:
            with trio.fail_after(timeout_s):
                async with self._pool.turn(address), ask() as (connection, answer):
                    data = await connection.read(bytes_max=bytes_max)
        except trio.TooSlowError:
            raise PeerUnreachable(f"{address} did not answer within {timeout_s:g} s") from None
        except ConnectionLost as error:
            raise PeerUnreachable(f"{address}: {error}") from None
        if answer.status != 200:
            raise PeerDeclined(f"{address}{path} answered {answer.status}", answer.status)
        return data


async def open_stream(address: Address) -> trio.SocketStream:
    """A TCP connection to an agent. Raises: PeerRefused, PeerUnreachable."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((address.host, address.port))
    except ConnectionRefusedError:
        sock.close()
        raise PeerRefused(f"no program listens at {address}") from None
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
            pass  # bytes have no meaning here, and are not the end
    except OSError as error:
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return WatchOutcome.CLOSED
        return WatchOutcome.UNREACHABLE
    return WatchOutcome.CLOSED
