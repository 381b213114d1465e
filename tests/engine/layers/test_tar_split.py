"""Tars rebuilt from files and notes, whatever is in the notes."""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.engine.docker.layerdb import LayerDb
from beiran.engine.layers.tar_split import TarSplit, UnpackedTar
from beiran.errors import DataError
from beiran.ids import Digest
from tests.lab.images import files_tar

ANY_PATH = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def split(tar: bytes, files: Path, notes: Path) -> None:
    """Take a tar apart as Docker does: files into a folder, all else into notes."""
    entries: list[dict[str, Any]] = []
    end = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            entries.append(raw(tar[end : member.offset_data]))
            entries.append({"type": 1, "name": member.name, "size": member.size, "payload": None})
            end = member.offset_data + member.size
            content = archive.extractfile(member)
            assert content is not None
            path = files / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
    entries.append(raw(tar[end:]))
    write_notes(notes, entries)


def raw(data: bytes) -> dict[str, Any]:
    return {"type": 2, "payload": base64.b64encode(data).decode()}


def write_notes(path: Path, entries: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry) for entry in entries]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


def rebuilt(notes: Path, files: Path) -> UnpackedTar:
    return UnpackedTar(TarSplit(notes), files, "identity")


def read(tar: UnpackedTar, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(tar.read(start, tar.size_bytes if end is None else end))


@ANY_PATH
@given(
    contents=st.lists(st.binary(max_size=3000), max_size=12),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_range_of_any_tar_is_what_it_was(
    contents: list[bytes], cuts: tuple[float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    tar = files_tar({f"{number % 3}/{number}": data for number, data in enumerate(contents)})
    (folder / "files").mkdir()
    split(tar, folder / "files", folder / "notes")
    again = rebuilt(folder / "notes", folder / "files")
    assert again.size_bytes == len(tar)
    assert read(again) == tar
    start, end = (round(cut * len(tar)) for cut in sorted(cuts))
    assert read(again, start, end) == tar[start:end]


@ANY_PATH
@given(
    data=st.binary(max_size=300),
    entries=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from([1, 2]) | st.integers(),
                "name": st.text(max_size=20) | st.sampled_from(["/", "..", "../x", "a/../../x"]),
                "name_raw": st.text(max_size=20) | st.just("Li4v"),
                "size": st.integers(-5, 2000) | st.integers(),
                "payload": st.binary(max_size=9).map(lambda b: base64.b64encode(b).decode()),
            },
        ),
        max_size=6,
    ),
)
def test_any_notes_give_a_tar_or_a_data_error(
    data: bytes, entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "raw").write_bytes(data)
    (tmp_path / "packed").write_bytes(gzip.compress(data))
    write_notes(tmp_path / "notes", entries)
    for name in ("raw", "packed", "notes"):
        try:
            again = rebuilt(tmp_path / name, tmp_path)
            found = read(again, 0, min(again.size_bytes, 5000))
        except DataError:
            continue
        assert len(found) == min(again.size_bytes, 5000)


def test_many_small_files_and_large_headers_are_put_together(tmp_path: Path) -> None:
    tar = files_tar({f"d{number % 7}/{number:05}": b"%d" % number for number in range(3000)})
    (tmp_path / "files").mkdir()
    split(tar, tmp_path / "files", tmp_path / "notes")
    again = rebuilt(tmp_path / "notes", tmp_path / "files")
    chunks = list(again.read(0, len(tar)))
    assert b"".join(chunks) == tar
    assert len(chunks) < 10
    assert TarSplit(tmp_path / "notes").memory_bytes < 1_000_000


@pytest.mark.parametrize("name", ["../secret", "link/secret", "/../secret", "linked"])
def test_names_never_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (files / "link").symlink_to("..")
    (files / "linked").symlink_to("../secret")
    write_notes(tmp_path / "notes", [{"type": 1, "name": name, "size": 6}])
    with pytest.raises(DataError):
        read(rebuilt(tmp_path / "notes", files))


def test_names_may_be_absolute_or_begin_with_a_dot_or_be_no_text(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "d").mkdir(parents=True)
    (files / "d" / "f").write_bytes(b"file")
    odd = b"d/\xff\xfe"
    Path(os.fsdecode(os.fsencode(files) + b"/" + odd)).write_bytes(b"odd")
    names = [{"type": 1, "name": name, "size": 4} for name in ("/d/f", "./d/f", "d//f", "d/../d/f")]
    raw_name = base64.b64encode(odd).decode()
    write_notes(tmp_path / "notes", [*names, {"type": 1, "name_raw": raw_name, "size": 3}])
    assert read(rebuilt(tmp_path / "notes", files)) == 4 * b"file" + b"odd"


@pytest.mark.parametrize("kind", ["missing", "longer", "shorter", "folder", "fifo"])
def test_changed_file_is_an_error(kind: str, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    if kind == "fifo":
        os.mkfifo(files / "file")
    elif kind == "folder":
        (files / "file").mkdir()
    elif kind != "missing":
        (files / "file").write_bytes(b"x" * (101 if kind == "longer" else 99))
    write_notes(tmp_path / "notes", [{"type": 1, "name": "file", "size": 100}])
    with pytest.raises(DataError):
        read(rebuilt(tmp_path / "notes", files))


def test_layer_of_the_graph_driver_is_found_by_its_chain_id(tmp_path: Path) -> None:
    tar = files_tar({"d/file": b"content", "other": b"x"})
    diff_id = Digest(hashlib.sha256(tar).digest())
    described = tmp_path / "image" / "overlay2" / "layerdb" / "sha256" / diff_id.hex()
    files = tmp_path / "overlay2" / "cache" / "diff"
    files.mkdir(parents=True)
    split(tar, files, described / "tar-split.json.gz")
    (described / "cache-id").write_text("cache")
    db = LayerDb(tmp_path, "overlay2")
    found = db.open_tar(diff_id)
    assert found is not None
    assert read(found) == tar
    assert db.open_tar(Digest(bytes(32))) is None
    assert LayerDb(tmp_path, "btrfs").open_tar(diff_id) is None
    assert db.sizes([diff_id]) is None
    (described / "size").write_text("8")
    assert db.sizes([diff_id]) == [8]
    (described / "cache-id").write_text("../../etc")
    with pytest.raises(DataError):
        db.open_tar(diff_id)
    (described / "cache-id").write_text("gone")
    assert db.open_tar(diff_id) is None


def test_notes_are_kept_only_while_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beiran.engine.docker.layerdb.NOTES_BYTES_MAX", 0)
    test_layer_of_the_graph_driver_is_found_by_its_chain_id(tmp_path)
