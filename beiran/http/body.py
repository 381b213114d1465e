"""Send the body of an answer: bytes, part of a file, or chunks as they come.

``server.py`` calls it. What was measured is at the top of that file.
"""

import errno
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import trio

from beiran.http.messages import FileSlice, Gate

STALL_TIMEOUT_S: Final = 30.0
"""How long the client may take for each step of an answer or of a request body. Chosen."""

SEND_BYTES: Final = 256 * 1024
"""One step. Measured: 1 MiB of a file that is not cached stalls the loop for 15 ms."""

WARM_BYTES: Final = 1024 * 1024
"""How much of a file that is not cached a thread reads ahead of ``sendfile``."""

_SOCKET_ERRORS: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH}
)


class BodyFailed(Exception):
    """The body could not be read, or has another length than the head says.

    The head was sent, so that closing the connection is the only way to report it.
    """


class ClientStalled(Exception):
    """The client took no byte of the answer for ``STALL_TIMEOUT_S``."""


async def send_bytes(stream: trio.SocketStream, data: bytes) -> None:
    """Send ``data`` step by step, so that a slow reader has a new time limit with each step.

    Raises: ClientStalled; trio.BrokenResourceError when the client is gone.
    """
    view = memoryview(data)
    for start in range(0, len(data), SEND_BYTES):
        await _send_step(stream, view[start : start + SEND_BYTES])


async def send_file(stream: trio.SocketStream, piece: FileSlice) -> None:
    """Send part of a file with ``sendfile``. A thread waits for the disk.

    Raises: ClientStalled; trio.BrokenResourceError; BodyFailed.
    """
    gate = piece.gate
    if gate is None:
        await _send_slice(stream, piece, None)
        return
    await _unless_gone(stream, lambda: _send_slice(stream, piece, gate))


async def _send_slice(stream: trio.SocketStream, piece: FileSlice, gate: Gate | None) -> None:
    offset, end = piece.start, piece.start + piece.length
    with trio.CancelScope() as scope:
        while offset < end:
            step_end = min(offset + SEND_BYTES, end)
            if gate is not None:
                scope.deadline = math.inf  # the gate makes us wait, not the client
                step_end = await _ask_gate(gate, offset, step_end)
            if not _cached(piece.descriptor, step_end - 1):
                warm_end = end if gate is None else step_end  # it may not reach further yet
                await _warm(piece.descriptor, min(WARM_BYTES, warm_end - offset), offset)
            scope.deadline = trio.current_time() + STALL_TIMEOUT_S
            await _send_file_step(stream, piece.descriptor, offset, step_end)
            offset = step_end
    if scope.cancelled_caught:
        raise ClientStalled


async def _ask_gate(gate: Gate, start: int, end: int) -> int:
    try:
        return await gate(start, end)
    except Exception as error:
        raise BodyFailed(str(error)) from error


async def send_chunks(
    stream: trio.SocketStream,
    chunks: AsyncIterable[bytes],
    frame: Callable[[memoryview], Sequence[bytes]],
) -> None:
    """Send chunks as they come. ``frame`` adds HTTP's framing.

    Raises: ClientStalled; trio.BrokenResourceError, also when the client closes while the next
    chunk is awaited; BodyFailed when ``chunks`` or ``frame`` raises, with that as its cause.
    """

    async def send_all() -> None:
        async with aclosing(_framed(chunks, frame)) as framed:
            async for data in framed:
                await _send_step(stream, data)

    await _unless_gone(stream, send_all)


async def _unless_gone(stream: trio.SocketStream, send: Callable[[], Awaitable[None]]) -> None:
    """Run ``send``. Raises: trio.BrokenResourceError when the client closes meanwhile."""
    failure: Exception | None = None
    done = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
        try:
            await send()
            done = True
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not done:
        raise trio.BrokenResourceError("the client closed the connection")


async def _framed(
    chunks: AsyncIterable[bytes], frame: Callable[[memoryview], Sequence[bytes]]
) -> AsyncGenerator[bytes]:
    try:
        async for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(chunk), SEND_BYTES):
                parts = frame(view[start : start + SEND_BYTES])
                yield parts[0] if len(parts) == 1 else b"".join(parts)
    except Exception as error:
        raise BodyFailed(str(error)) from error


async def _send_step(stream: trio.SocketStream, data: bytes | memoryview) -> None:
    try:
        with trio.fail_after(STALL_TIMEOUT_S):
            await stream.send_all(data)
    except trio.TooSlowError:
        raise ClientStalled from None


async def _send_file_step(
    stream: trio.SocketStream, descriptor: int, offset: int, end: int
) -> None:
    waited = False
    while offset < end:
        try:
            sent = os.sendfile(stream.socket.fileno(), descriptor, offset, end - offset)
        except BlockingIOError:
            await stream.socket.wait_writable()
            waited = True
            continue
        except OSError as error:
            if error.errno in _SOCKET_ERRORS:
                raise trio.BrokenResourceError(str(error)) from None
            raise BodyFailed(str(error)) from error
        if not sent:
            raise BodyFailed(f"the file ends at byte {offset}, before the end that the head says")
        offset += sent
    if not waited:
        await trio.lowlevel.checkpoint()


def _cached(descriptor: int, offset: int) -> bool:
    """Whether that byte of a file is in the page cache."""
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system without RWF_NOWAIT (preadv2(2): EOPNOTSUPP)
        return True
    return True


async def _warm(descriptor: int, length: int, offset: int) -> None:
    try:
        await trio.to_thread.run_sync(os.pread, descriptor, length, offset)
    except OSError as error:
        raise BodyFailed(str(error)) from error


async def _cancel_when_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel when the client closes. Bytes that it sends meanwhile stay in the socket."""
    try:
        gone = not await stream.socket.recv(1, trio.socket.MSG_PEEK)
    except OSError:
        gone = True
    if gone:
        scope.cancel()
