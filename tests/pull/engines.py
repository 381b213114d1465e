"""Engines in memory for the pull part: one that has an image unpacked, one that pulls."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from beiran.engine import interface as contract
from beiran.engine.diff_id_manifest import diff_id_manifest
from beiran.engine.no_engine import NoEngine
from beiran.errors import NotFound
from beiran.ids import Digest
from beiran.oci.manifests import digest_of
from tests.pull.site import (
    CONFIG,
    MANIFEST,
    PEER,
    TAR,
    Pair,
    TakingEngine,
    open_pair,
)


class InMemory:
    """Keeps ``contract.BlobReader``."""

    file = None

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._data = data

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        yield self._data[start:end]


class UnpackedEngine(NoEngine):
    """Has an image's config and the tar of its layer, and says that this has ``tar_bytes``.

    Attributes:
      in_manifest: what the manifest that it makes says of that.
    """

    def __init__(self, tar_bytes: int) -> None:
        self.in_manifest = tar_bytes
        self.blobs = {digest_of(CONFIG): CONFIG, digest_of(TAR): TAR}
        self.sizes = {digest_of(CONFIG): len(CONFIG), digest_of(TAR): tar_bytes}

    async def image_manifest(self, image: Digest) -> contract.Manifest | None:
        return diff_id_manifest(image, len(CONFIG), [(digest_of(TAR), self.in_manifest)])

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        return {digest: self.sizes[digest] for digest in digests if digest in self.sizes}

    @asynccontextmanager
    async def open_blob(self, digest: Digest) -> AsyncIterator[contract.BlobReader]:
        if digest not in self.blobs:
            raise NotFound("BLOB_UNKNOWN", "it is not here")
        yield InMemory(self.blobs[digest])


class PullingEngine(TakingEngine):
    """One that pulls by itself, and so may be who asks the mirror."""

    can_pull = True


@asynccontextmanager
async def open_unpacked(folder: Path, tar_bytes: int, engine: TakingEngine) -> AsyncIterator[Pair]:
    """The first has the layer unpacked only; the second has ``engine``."""
    giver, taker = {"engine": UnpackedEngine(tar_bytes)}, {"engine": engine}
    async with open_pair(folder, giver=giver, taker=taker) as pair:
        pair[1].put_image(PEER, digest_of(CONFIG), "team/app:1", digest_of(MANIFEST))
        yield pair
