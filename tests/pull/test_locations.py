"""Where the blobs of an image are, and when that is found out again."""

from contextlib import AsyncExitStack
from pathlib import Path

from beiran.oci.manifests import digest_of
from tests.pull.reading import asked_again, known_and_away, read
from tests.pull.site import (
    LAYER,
    NAME,
)


async def test_blobs_are_located_again_when_the_origin_is_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        site = await known_and_away(tmp_path, stack)
        assert (await site.backend.manifest(NAME, "1")).source == "peers"
        site.registry.down = False
        await asked_again(site, "1", until="origin")
        async with site.backend.blob(NAME, digest_of(LAYER)) as reader:
            assert await read(reader) == LAYER
