"""Sending the body of an answer: bytes, part of a file, or chunks as they come."""

import errno
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import trio

from beiran.http.messages import FileSlice, Gate

STALL_TIMEOUT_S: Final = 30.0
"""How long the other end may take for each step of what we send, and for each it sends."""

SEND_BYTES: Final = 256 * 1024
"""One step. A larger ``sendfile`` holds up the loop for 15 ms where the file is not cached."""

WARM_BYTES: Final = 1024 * 1024
"""How much of a file that is not cached is read in a thread before it is sent."""

_SOCKET_ERRORS: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH}
)


class BodyFailed(Exception):
    """What was to be sent could not be had, or had another length than was promised.

    The head is out already, so all that is left is to break off.
    """


class ClientStalled(Exception):
    """The other end took none of what we send for ``STALL_TIMEOUT_S``."""


async def send_bytes(stream: trio.SocketStream, data: bytes) -> None:
    """Send ``data``, step by step, so that a slow reader is told from one that has stalled.

    Raises: ClientStalled; trio.BrokenResourceError when the other end is gone.
    """
    view = memoryview(data)
    for start in range(0, len(data), SEND_BYTES):
        await _send_step(stream, view[start : start + SEND_BYTES])


async def send_file(stream: trio.SocketStream, piece: FileSlice) -> None:
    """Send part of a file with ``sendfile``; the disk is waited for in a thread.

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
                scope.deadline = math.inf  # to be held back is not to stall
                step_end = await _ask_gate(gate, offset, step_end)
            if not _cached(piece.descriptor, step_end - 1):
                warm_end = end if gate is None else step_end  # beyond may be nothing yet
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
    """Send chunks as they come, each framed as HTTP wants it.

    Raises: ClientStalled; trio.BrokenResourceError, also when the other end goes away while the
    next chunk is awaited; BodyFailed when ``chunks`` or ``frame`` raises, with that as its cause.
    """

    async def send_all() -> None:
        async with aclosing(_framed(chunks, frame)) as framed:
            async for data in framed:
                await _send_step(stream, data)

    await _unless_gone(stream, send_all)


async def _unless_gone(stream: trio.SocketStream, send: Callable[[], Awaitable[None]]) -> None:
    """Run ``send``, until the other end goes away: trio.BrokenResourceError."""
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
        raise trio.BrokenResourceError("the other end went away")


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
            raise BodyFailed(f"the file ends at byte {offset}, before what was promised")
        offset += sent
    if not waited:
        await trio.lowlevel.checkpoint()


def _cached(descriptor: int, offset: int) -> bool:
    """Whether that byte of a file can be read without waiting for the disk."""
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot tell (preadv2(2): EOPNOTSUPP)
        return True
    return True


async def _warm(descriptor: int, length: int, offset: int) -> None:
    try:
        await trio.to_thread.run_sync(os.pread, descriptor, length, offset)
    except OSError as error:
        raise BodyFailed(str(error)) from error


async def _cancel_when_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel when the other end closes; what it sends meanwhile stays to be read later."""
    try:
        gone = not await stream.socket.recv(1, trio.socket.MSG_PEEK)
    except OSError:
        gone = True
    if gone:
        scope.cancel()
