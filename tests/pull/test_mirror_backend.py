"""Requests of the mirror, all the way to the bytes."""

from pathlib import Path

from beiran.oci.manifests import digest_of
from tests.pull.reading import read
from tests.pull.site import (
    LAYER,
    MANIFEST,
    NAME,
    TakingEngine,
    open_site,
)


async def test_a_pull_through_a_cache_without_room_works(tmp_path: Path) -> None:
    async with open_site(tmp_path, cache_bytes=100, engine=TakingEngine()) as site:
        answer = await site.backend.manifest(NAME, "1")
        assert answer.data == MANIFEST
        async with site.backend.blob(NAME, digest_of(LAYER)) as reader:
            assert await read(reader) == LAYER
