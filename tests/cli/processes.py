"""Processes that a test starts, talks to, and never leaves behind."""

import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_process(
    command: Sequence[str], environ: Mapping[str, str]
) -> AsyncIterator[trio.Process]:
    """A process with pipes for its output; killed when the block is left.

    It heeds SIGINT even if this process does not: a program inherits an ignored signal, and a shell
    starts its background jobs with SIGINT ignored.
    """
    process = await trio.lowlevel.open_process(
        ["env", "--default-signal=INT", *command],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()


async def read_all(stream: trio.abc.ReceiveStream | None) -> str:
    """Read until the other end closes the stream."""
    assert stream is not None
    return b"".join([chunk async for chunk in stream]).decode()


async def read_until(stream: trio.abc.ReceiveStream | None, wanted: str, count: int = 1) -> str:
    """Read until ``wanted`` has come ``count`` times."""
    assert stream is not None
    data = b""
    while data.count(wanted.encode()) < count:
        more = await stream.receive_some()
        assert more, f"ended before {wanted!r} came: {data.decode()}"
        data += more
    return data.decode()


async def close(stream: trio.abc.ReceiveStream | None) -> None:
    """Read no more of it."""
    assert stream is not None
    await stream.aclose()
