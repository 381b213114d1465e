"""Receive a connection's bytes into the buffers from which they are hashed and written.

Part of the measured receive path: see ``blob_fetch.py``. From a plain TCP socket the kernel copies
straight into a buffer, and wakes this task after ``WAKE_BYTES`` (SO_RCVLOWAT) or ``LOOK_S``, not
after each packet. Other streams (TLS) are read through trio's interface.
"""

import os
import socket
from typing import Final

import trio

from beiran.peers.response_head import BadAnswer

WAKE_BYTES: Final = 256 * 1024  # chosen: a quarter of a buffer
LOOK_S: Final = 0.2
"""A slow link's bytes are taken this often, so that its progress shows and it does not stall."""

RECEIVE_BYTES: Final = 4096
"""For heads and short answers. Body bytes that come in the same read must be copied."""

TLS_RECEIVE_BYTES: Final = 256 * 1024  # as WAKE_BYTES: some records of 16 KiB at once; chosen


class Wire:
    """A connection to an agent. Owns ``stream``."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream: Final = stream
        self._socket: Final = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._wake_bytes = 1
        self._rest = b""

    @property
    def plain_socket(self) -> trio.socket.SocketType | None:
        """Of a plain TCP connection: readable while no answer is due, it is closed."""
        return self._socket

    def close(self) -> None:
        """Close it at once, also while a task reads from it."""
        if self._socket is not None:
            self._socket.close()
            return
        transport: object = self._stream
        while isinstance(transport, trio.SSLStream):
            transport = transport.transport_stream
        if isinstance(transport, trio.SocketStream):
            transport.socket.close()

    async def send(self, data: bytes) -> bool:
        """Send all. Returns: False when the other end has closed the connection."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            return False
        return True

    async def receive(self) -> bytes:
        """The next bytes; empty when the connection has ended."""
        rest, self._rest = self._rest, b""
        if rest:
            return rest
        self._set_wake_bytes(1)
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except trio.BrokenResourceError:
            return b""

    async def receive_into(self, space: memoryview, stall_timeout_s: float) -> int:
        """Receive into ``space``. Returns: the number of bytes; 0 when the connection has ended.

        Raises: BadAnswer when none arrives for ``stall_timeout_s``.
        """
        if self._socket is None:
            return await self._receive_copied(space, stall_timeout_s)
        descriptor = self._socket.fileno()
        left_s = stall_timeout_s
        while (count := self._read(descriptor, space)) is None:
            if left_s <= 0:
                raise BadAnswer(f"no byte arrived for {stall_timeout_s:g} s")
            self._set_wake_bytes(min(len(space), WAKE_BYTES))
            with trio.move_on_after(min(left_s, LOOK_S)) as scope:
                await trio.lowlevel.wait_readable(descriptor)
            if scope.cancelled_caught:
                left_s -= LOOK_S
        return count

    def _read(self, descriptor: int, space: memoryview) -> int | None:
        try:
            return os.readv(descriptor, [space])
        except BlockingIOError:
            return None
        except OSError:
            return 0

    async def _receive_copied(self, space: memoryview, stall_timeout_s: float) -> int:
        data = self._rest
        if not data:
            try:
                with trio.fail_after(stall_timeout_s):
                    data = bytes(await self._stream.receive_some(TLS_RECEIVE_BYTES))
            except trio.BrokenResourceError:
                return 0
            except trio.TooSlowError:
                raise BadAnswer(f"no byte arrived for {stall_timeout_s:g} s") from None
        count = min(len(data), len(space))
        space[:count] = data[:count]
        self._rest = data[count:]
        return count

    def _set_wake_bytes(self, count: int) -> None:
        if self._socket is not None and count != self._wake_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wake_bytes = count
