"""Resolving names to images that nodes built."""

from pathlib import Path

from beiran.engine.diff_id_manifest import diff_id_manifest
from beiran.oci.manifests import digest_of
from tests.pull.engines import PullingEngine, UnpackedEngine
from tests.pull.reading import read_blob
from tests.pull.site import (
    CONFIG,
    NAME,
    PEER,
    TAR,
    open_pair,
)


async def test_the_manifest_of_a_built_image_has_the_sizes_that_its_holders_say(
    tmp_path: Path,
) -> None:
    engine, holder = PullingEngine(), UnpackedEngine(len(TAR))
    holder.in_manifest += 1000
    async with open_pair(tmp_path, giver={"engine": holder}, taker={"engine": engine}) as (
        _,
        taker,
    ):
        taker.put_image(PEER, digest_of(CONFIG), "team/app:built")
        right = diff_id_manifest(digest_of(CONFIG), len(CONFIG), [(digest_of(TAR), len(TAR))])
        answer = await taker.backend.manifest(NAME, "built", for_engine=True)
        assert answer.data == right.data
        assert await read_blob(taker, digest_of(TAR)) == TAR
