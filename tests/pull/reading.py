"""Read blobs as the mirror does, and sites whose origin went away."""

import os
from contextlib import AsyncExitStack
from pathlib import Path

import trio
import trio.testing

from beiran.ids import Digest
from beiran.mirror.backend import OpenBlob
from tests.pull.site import (
    NAME,
    Site,
    open_site,
)


async def read(reader: OpenBlob) -> bytes:
    piece = reader.file(0, reader.size_bytes)
    if piece is None:
        return b"".join([chunk async for chunk in reader.chunks(0, reader.size_bytes)])
    try:
        if piece.gate is not None:
            at = 0
            while at < piece.length:
                at = await piece.gate(at, piece.length)
        return os.pread(piece.descriptor, piece.length, piece.start)
    finally:
        os.close(piece.descriptor)


async def read_blob(site: Site, digest: Digest) -> bytes:
    """All of a blob, as the mirror reads it."""
    async with site.backend.blob(NAME, digest) as reader:
        return b"".join([chunk async for chunk in reader.chunks(0, reader.size_bytes)])


async def known_and_away(folder: Path, stack: AsyncExitStack) -> Site:
    """One that pulled the manifest in an earlier life, and whose origin is away now."""
    async with open_site(folder) as site:
        for tag in ("1", "many"):
            await site.backend.manifest(NAME, tag)
    site = await stack.enter_async_context(open_site(folder))
    site.registry.down = True
    return site


async def asked_again(site: Site, tag: str | Digest, *, until: str) -> None:
    """Ask until the origin counts as back, which is found out in the background."""
    with trio.fail_after(20):
        while (await site.backend.manifest(NAME, tag)).source != until:  # noqa: ASYNC110
            await trio.sleep(0.05)
