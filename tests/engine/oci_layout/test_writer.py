"""An image is added to a layout folder whole or not at all, even beside other writers."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from beiran.engine.interface import Manifest
from beiran.engine.oci_layout.layout_engine import OciLayoutEngine
from beiran.engine.oci_layout.writer import LayoutWriter
from beiran.errors import EngineRefused, NotFound
from beiran.ids import Digest, parse_digest
from beiran.oci.manifests import OCI_INDEX, digest_of
from tests.engine.conftest import listening, skopeo
from tests.lab.images import MadeImage, made_image, named, write_layout

ONE = made_image({"a": b"a" * 5000}, {"b": b"b" * 300}, labels={"number": "one"})
TWO = made_image({"a": b"a" * 5000}, {"c": b"c" * 17}, labels={"number": "two"})
NAME = "docker.io/library/one:1"


def blobs_in(folder: Path, image: MadeImage) -> tuple[Manifest, dict[Digest, Path | bytes]]:
    """An image as a pull has it: its manifest, and its blobs as files."""
    row = image.write_blobs(folder)
    paths = {parse_digest("sha256:" + p.name): p for p in (folder / "blobs" / "sha256").iterdir()}
    data = paths[parse_digest(row["digest"])].read_bytes()
    return Manifest(row["mediaType"], data), dict(paths)


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())["manifests"]
    return found


def names(folder: Path) -> list[str]:
    key = "org.opencontainers.image.ref.name"
    return sorted(row.get("annotations", {}).get(key, "") for row in rows(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where there is no layout yet."""
    return tmp_path / "images"


async def test_image_is_added_to_a_folder_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    engine = OciLayoutEngine(folder)
    await engine.add_image([NAME], manifest, blobs)
    async with listening(engine) as listener:
        await listener.until_tags(ONE.id, "one:1")
        held = listener.images[ONE.id].holding
        assert [each.digest for each in held.digests] == [manifest.digest]
        assert await engine.image_manifest(parse_digest(ONE.id)) == manifest


async def test_blobs_are_linked_where_they_can_be(folder: Path, tmp_path: Path) -> None:
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    await OciLayoutEngine(folder).add_image([NAME], manifest, blobs)
    for digest, path in blobs.items():
        assert isinstance(path, Path)
        assert (folder / "blobs" / "sha256" / digest.hex()).samefile(path)


async def test_blobs_are_copied_from_another_file_system(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    await OciLayoutEngine(folder).add_image([NAME], manifest, blobs)
    for digest in blobs:
        data = (folder / "blobs" / "sha256" / digest.hex()).read_bytes()
        assert digest_of(data) == digest


async def test_adding_again_moves_the_name(folder: Path, tmp_path: Path) -> None:
    engine = OciLayoutEngine(folder)
    await engine.add_image([NAME], *blobs_in(tmp_path / "one", ONE))
    await engine.add_image([NAME], *blobs_in(tmp_path / "one", ONE))
    assert names(folder) == [NAME]
    async with listening(engine) as listener:
        await listener.until_tags(ONE.id, "one:1")
        await engine.add_image([NAME, "quay.io/a/b:2"], *blobs_in(tmp_path / "two", TWO))
        await listener.until_tags(TWO.id, "one:1", "quay.io/a/b:2")
        await engine.add_image([], *blobs_in(tmp_path / "one", ONE))
        await listener.until_tags(ONE.id)


async def test_image_that_is_not_whole_is_not_listed(folder: Path, tmp_path: Path) -> None:
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    blobs.pop(parse_digest(ONE.id))
    engine = OciLayoutEngine(folder)
    with pytest.raises(EngineRefused, match="not whole"):
        await engine.add_image([NAME], manifest, blobs)
    assert rows(folder) == []


async def test_index_of_several_platforms_is_added(folder: Path, tmp_path: Path) -> None:
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    row = {"mediaType": manifest.media_type, "size": len(manifest.data)}
    here = {**row, "digest": "sha256:" + manifest.digest.hex()}
    elsewhere = {**row, "digest": "sha256:" + 64 * "0"}
    data = json.dumps({"schemaVersion": 2, "manifests": [elsewhere, here]}).encode()
    engine = OciLayoutEngine(folder)
    await engine.add_image([NAME], Manifest(OCI_INDEX, data), blobs)
    async with listening(engine) as listener:
        await listener.until_tags(ONE.id, "one:1")


async def test_folder_with_something_else_in_it_is_left_alone(folder: Path, tmp_path: Path) -> None:
    write_thesis(folder)
    with pytest.raises(EngineRefused, match="not empty"):
        await OciLayoutEngine(folder).add_image([NAME], *blobs_in(tmp_path / "cache", ONE))
    assert files(folder) == ["thesis.txt"]


async def test_index_that_cannot_be_read_is_left_alone(folder: Path, tmp_path: Path) -> None:
    write_layout(folder)
    for broken in ("", "{", "[]", '{"manifests": 5}', '{"manifests": [5]}'):
        (folder / "index.json").write_text(broken)
        with pytest.raises(EngineRefused):
            await OciLayoutEngine(folder).add_image([NAME], *blobs_in(tmp_path / "cache", ONE))
        assert (folder / "index.json").read_text() == broken


async def test_what_others_wrote_into_the_index_stays(folder: Path, tmp_path: Path) -> None:
    row = named(TWO.write_blobs(folder), "two:2")
    row["annotations"]["org.example.note"] = "keep me"
    write_layout(folder, row)
    index = json.loads((folder / "index.json").read_text())
    index["annotations"] = {"org.example.owner": "another tool"}
    (folder / "index.json").write_text(json.dumps(index))
    engine = OciLayoutEngine(folder)
    await engine.add_image([NAME], *blobs_in(tmp_path / "cache", ONE))
    await engine.tag("two:2", "docker.io/library/three:3")
    found = json.loads((folder / "index.json").read_text())
    assert found["annotations"] == index["annotations"]
    assert row in found["manifests"]
    assert names(folder) == [NAME, "docker.io/library/three:3", "two:2"]
    three = found["manifests"][-1]["annotations"]
    assert three["org.example.note"] == "keep me"
    with pytest.raises(NotFound):
        await engine.tag("four:4", "docker.io/library/five:5")


async def test_many_writers_at_once_lose_nothing(folder: Path, tmp_path: Path) -> None:
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    LayoutWriter(folder).prepare()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            engine = OciLayoutEngine(folder)
            name = f"docker.io/library/many:{number}"
            nursery.start_soon(engine.add_image, [name], manifest, blobs)
    assert names(folder) == sorted(f"docker.io/library/many:{number}" for number in range(20))


async def test_nothing_half_written_is_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, blobs = blobs_in(tmp_path / "cache", ONE)
    engine = OciLayoutEngine(folder)
    await engine.add_image([NAME], manifest, blobs)

    others = blobs_in_bytes(TWO)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(Path, "rename", fail)
    attempts: list[Callable[[], Any]] = [
        partial(engine.add_image, ["docker.io/library/two:2"], *others),
        partial(engine.tag, NAME, "docker.io/library/three:3"),
    ]
    for attempt in attempts:
        with pytest.raises(EngineRefused, match="No space left"):
            await attempt()
    monkeypatch.undo()
    assert names(folder) == [NAME]
    assert [name for name in files(folder) if name.startswith(".")] == []


def write_thesis(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("important")


def files(folder: Path) -> list[str]:
    """The names of all files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def blobs_in_bytes(image: MadeImage) -> tuple[Manifest, dict[Digest, Path | bytes]]:
    """An image all of whose blobs are in memory."""
    with tempfile.TemporaryDirectory() as place:
        manifest, paths = blobs_in(Path(place), image)
        return manifest, {d: p.read_bytes() for d, p in paths.items() if isinstance(p, Path)}


async def test_other_programs_find_the_image_by_the_name_it_is_shown_by(
    folder: Path, tmp_path: Path
) -> None:
    await OciLayoutEngine(folder).add_image([NAME], *blobs_in(tmp_path / "cache", ONE))
    await trio.to_thread.run_sync(
        skopeo, "copy", f"oci:{folder}:{NAME}", f"dir:{tmp_path / 'copied'}"
    )
    assert (tmp_path / "copied" / "manifest.json").exists()
