"""Keep connections for the next request, and limit how many lead to one place.

``peers`` (requests to other agents, and the blob path beside them) and the client library keep
their idle connections here. Each idle connection has a task that waits until the other end closes
it or ``idle_timeout_s`` is over, so that a process at rest holds none and sends nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import trio

from beiran.http.connection import Answer, ConnectionLost, HttpConnection


class Connection(Protocol):
    """What a pool keeps.

    Attributes:
      plain_socket: readable only when the other end has closed it, while no answer is due. None
        where idle bytes mean nothing (TLS sends session tickets): then only the timeout counts.
    """

    @property
    def plain_socket(self) -> trio.socket.SocketType | None:
        """See above."""
        ...

    def close(self) -> None:
        """Close it at once."""


K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Connection)


class _Idle(NamedTuple, Generic[K]):
    """Where an idle connection leads, and the scope of the task that waits beside it."""

    place: K
    scope: trio.CancelScope


class Pool(Generic[K, C]):
    """Idle connections by the place that they lead to (an address).

    Args:
      nursery: runs the waits beside idle connections. Cancel it to close them all.
      per_place_max: connections to one place in use at once, for those that ask by ``turn``.
      idle_max: idle connections to all places; beyond it the one that idles longest is closed.
      idle_timeout_s: seconds after which an idle connection is closed.
    """

    def __init__(
        self, nursery: trio.Nursery, *, per_place_max: int, idle_max: int, idle_timeout_s: float
    ) -> None:
        self._nursery: Final = nursery
        self._per_place_max: Final = per_place_max
        self._idle_max: Final = idle_max
        self._idle_timeout_s: Final = idle_timeout_s
        self._limiters: dict[K, trio.CapacityLimiter] = {}
        self._idle: dict[C, _Idle[K]] = {}  # the one that idles longest comes first

    @asynccontextmanager
    async def turn(self, place: K) -> AsyncIterator[None]:
        """Wait until fewer than ``per_place_max`` others use a connection to ``place``."""
        limiter = self._limiters.setdefault(place, trio.CapacityLimiter(self._per_place_max))
        try:
            async with limiter:
                yield
        finally:
            used = limiter.statistics()
            if not used.borrowed_tokens and not used.tasks_waiting:
                self._limiters.pop(place, None)

    def take(self, place: K) -> C | None:
        """The idle connection to ``place`` that was used last, if there is one."""
        for connection in reversed(self._idle):
            if self._idle[connection].place == place:
                self._idle.pop(connection).scope.cancel()
                return connection
        return None

    def keep(self, place: K, connection: C) -> None:
        """Keep a connection on which no answer is due any more; close it in a pool that closes."""
        if self._nursery.cancel_scope.cancel_called:
            connection.close()
            return
        if len(self._idle) >= self._idle_max:
            oldest = next(iter(self._idle))
            self._idle.pop(oldest).scope.cancel()
            oldest.close()
        deadline = trio.current_time() + self._idle_timeout_s
        idle = self._idle[connection] = _Idle(place, trio.CancelScope(deadline=deadline))
        self._nursery.start_soon(self._close_when_idle_ends, connection, idle)

    async def _close_when_idle_ends(self, connection: C, idle: _Idle[K]) -> None:
        try:
            with idle.scope:
                await trio.lowlevel.checkpoint_if_cancelled()  # taken: another task waits there
                if connection.plain_socket is None:
                    await trio.sleep_forever()
                else:
                    await trio.lowlevel.wait_readable(connection.plain_socket.fileno())
        finally:
            if self._idle.get(connection) is idle:
                del self._idle[connection]
                connection.close()


class HttpPool(Pool[K, HttpConnection]):
    """A pool whose connections speak HTTP. ``connect`` opens one to a place."""

    def __init__(
        self,
        nursery: trio.Nursery,
        connect: Callable[[K], Awaitable[HttpConnection]],
        *,
        per_place_max: int,
        idle_max: int,
        idle_timeout_s: float,
    ) -> None:
        super().__init__(
            nursery,
            per_place_max=per_place_max,
            idle_max=idle_max,
            idle_timeout_s=idle_timeout_s,
        )
        self._connect: Final = connect

    @asynccontextmanager
    async def ask(
        self,
        place: K,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        repeatable: bool,
    ) -> AsyncIterator[tuple[HttpConnection, Answer]]:
        """Send a request; the connection, and the head of the answer that came on it.

        The connection is kept afterwards when the answer was read to its end, else closed.

        Args:
          repeatable: whether the request may be sent twice. Then it is sent on an idle connection
            first. The other end may have closed that a moment ago, and may have seen the request.

        Raises: ConnectionLost; RemoteProtocolError; what ``connect`` raises.
        """
        while True:
            idle = self.take(place) if repeatable else None
            connection = idle or await self._connect(place)
            try:
                answer = await connection.ask(method, target, headers=headers, body=body)
                break
            except ConnectionLost as error:
                connection.close()
                if idle is None or error.answered:
                    raise
            except BaseException:
                connection.close()
                raise
        try:
            yield connection, answer
        finally:
            if connection.reusable:
                self.keep(place, connection)
            else:
                connection.close()
