"""Manifests and configs, from the nearest that has them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from beiran.engine import interface as contract
from beiran.errors import DataError
from beiran.ids import Digest
from beiran.oci.manifests import digest_of
from tests.pull.site import (
    CONFIG,
    MANIFEST,
    NAME,
    TakingEngine,
    open_site,
)


class DamagedEngine(TakingEngine):
    """Has a config that turns out to be damaged when it is opened."""

    damage_known = False

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        if self.damage_known:
            return {}
        return {digest: len(CONFIG) for digest in digests if digest == digest_of(CONFIG)}

    @asynccontextmanager
    async def open_blob(self, digest: Digest) -> AsyncIterator[contract.BlobReader]:
        self.damage_known = True
        raise DataError("what is on disk is something else")
        yield


async def test_a_config_that_is_damaged_in_the_engine_comes_from_the_origin(tmp_path: Path) -> None:
    async with open_site(tmp_path, engine=DamagedEngine()) as site:
        assert (await site.backend.manifest(NAME, "1")).data == MANIFEST
