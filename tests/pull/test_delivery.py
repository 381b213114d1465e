"""In which form an engine gets an image, and what a wrong size of a peer changes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from beiran.ids import digest_text
from beiran.mirror.errors import MirrorError
from beiran.oci.manifests import digest_of
from beiran.pull import delivery
from tests.pull.engines import PullingEngine, open_unpacked
from tests.pull.reading import read, read_blob
from tests.pull.site import (
    LAYER,
    MANIFEST,
    NAME,
    TAR,
    Site,
    manifest_of,
    open_site,
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as site:
        yield site


@pytest.mark.parametrize("for_engine", [True, False])
async def test_a_manifest_of_no_image_is_served_as_it_is(site: Site, for_engine: bool) -> None:
    artefact = manifest_of(b"{}", "application/vnd.oci.empty.v1+json", LAYER)
    site.registry.tags["chart"] = artefact
    site.registry.blobs[digest_text(digest_of(b"{}"))] = b"{}"
    answer = await site.backend.manifest(NAME, "chart", for_engine=for_engine)
    assert answer.data == artefact
    async with site.backend.blob(NAME, digest_of(LAYER)) as reader:
        assert await read(reader) == LAYER


@pytest.mark.parametrize("tar_bytes", [len(TAR), len(TAR) + 1000, len(TAR) - 1000])
async def test_a_peers_wrong_size_of_a_tar_reaches_no_manifest(
    tmp_path: Path, tar_bytes: int
) -> None:
    engine = PullingEngine()
    async with open_unpacked(tmp_path, tar_bytes, engine) as (_, taker):
        answer = await taker.backend.manifest(NAME, "1", for_engine=True)
        assert answer.data == MANIFEST
        is_right = tar_bytes == len(TAR)
        assert len(engine.loaded) == (1 if is_right else 0)
        assert await read_blob(taker, digest_of(LAYER)) == LAYER


async def test_a_manifest_with_a_peers_wrong_size_is_made_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image too large to be loaded: the size shows as wrong when the engine asks for it."""
    monkeypatch.setattr(delivery, "LOADED_BYTES_MAX", 0)
    async with open_unpacked(tmp_path, len(TAR) + 1000, PullingEngine()) as (_, taker):
        answer = await taker.backend.manifest(NAME, "1", for_engine=True)
        (layer,) = json.loads(answer.data or b"")["layers"]
        assert (layer["digest"], layer["size"]) == (digest_text(digest_of(TAR)), len(TAR) + 1000)
        with pytest.raises(MirrorError):  # and then it asks the registry itself
            await read_blob(taker, digest_of(TAR))
        again = await taker.backend.manifest(NAME, "1", for_engine=True)
        assert again.data == MANIFEST
