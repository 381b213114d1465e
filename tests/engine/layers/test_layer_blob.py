"""Layers in blobs: compressed in every way, and damaged in every way."""

import gzip
import hashlib
import os
import random
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.engine.content_store import LayerBlob
from beiran.engine.layers import decompression as tar_streams
from beiran.engine.layers import layer_blob
from beiran.engine.layers.layer_blob import BlobTar, measure
from beiran.errors import DataError
from beiran.ids import Digest
from tests.lab.images import Compression, compress, entries_tar, files_tar, odd_image

TAR = files_tar({"noise": os.urandom(300_000), "zeros": bytes(5_000_000)})


def layer_of(tar: bytes, blob: bytes) -> LayerBlob:
    digests = [Digest(hashlib.sha256(data).digest()) for data in (tar, blob)]
    return LayerBlob(digests[0], digests[1], "")


def written(tmp_path: Path, blob: bytes) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(blob)
    return path


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_any_range_can_be_read(tmp_path: Path, compression: Compression) -> None:
    path = written(tmp_path, compress(TAR, compression))
    assert measure(layer_of(TAR, b""), path).tar_bytes == len(TAR)
    tar = BlobTar(path, len(TAR))
    try:
        for start, end in [(0, len(TAR)), (5, 5), (299_000, 2_000_000), (len(TAR) - 3, len(TAR))]:
            assert b"".join(tar.read(start, end)) == TAR[start:end]
    finally:
        tar.close()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
def test_pieces_come_in_any_order_each_from_a_layer_opened_anew(
    tmp_path: Path, compression: Compression, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_streams, "MARK_BYTES", 300_000)
    monkeypatch.setattr(tar_streams, "MARKS_MAX", 4)
    tar = files_tar({"noise": os.urandom(3_000_000), "zeros": bytes(1_000_000)})
    half = len(tar) // 2
    path = written(tmp_path, compress(tar[:half], compression) + compress(tar[half:], compression))
    starts = list(range(0, len(tar), 70_001))
    if order != "forwards":
        starts.reverse()
    if order == "shuffled":
        random.Random(5).shuffle(starts)
    for start in starts:
        opened = BlobTar(path, len(tar))
        end = min(start + 70_001, len(tar))
        assert b"".join(opened.read(start, end)) == tar[start:end]
        opened.close()


def test_pieces_in_a_row_are_decompressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counting(tar_streams.File):
        def read(self, size: int = tar_streams.CHUNK_BYTES) -> bytes:
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(layer_blob, "File", Counting)
    blob = compress(files_tar({"noise": os.urandom(5_000_000)}), "gzip")
    tar = BlobTar(written(tmp_path, blob), 5_000_000)
    for start in range(0, 5_000_000, 10_000):
        assert sum(map(len, tar.read(start, start + 10_000))) == 10_000
    assert sum(read) <= len(blob)
    list(tar.read(4_000_000, 4_010_000))  # back, to the beginning: there is no mark yet
    assert sum(read) <= 2 * len(blob)
    tar.close()


def test_what_cannot_be_decompressed_is_not_gone_on_with(tmp_path: Path) -> None:
    blob = compress(files_tar({"noise": os.urandom(3_000_000)}), "gzip")
    path = written(tmp_path, blob[:2_000_000] + bytes(1000) + blob[2_001_000:])
    for _ in range(2):
        tar = BlobTar(path, 3_000_000)
        assert sum(map(len, tar.read(0, 1_000_000))) == 1_000_000
        with pytest.raises(DataError):
            list(tar.read(1_000_000, 3_000_000))
        tar.close()


def test_blob_may_be_several_gzip_members_or_zstd_frames(tmp_path: Path) -> None:
    half = len(TAR) // 2
    for blob in (
        gzip.compress(TAR[:half]) + gzip.compress(TAR[half:]) + bytes(100),
        zstandard.compress(TAR[:half]) + zstandard.compress(TAR[half:]),
    ):
        assert measure(layer_of(TAR, blob), written(tmp_path, blob)).tar_bytes == len(TAR)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_blob_that_ends_early_is_an_error(tmp_path: Path, compression: Compression) -> None:
    path = written(tmp_path, compress(TAR, compression)[:-50])
    with pytest.raises(DataError):
        measure(layer_of(TAR, b""), path)
    tar = BlobTar(path, len(TAR))
    try:
        with pytest.raises(DataError):
            list(tar.read(0, len(TAR)))
    finally:
        tar.close()


def test_blob_that_expands_for_ever_is_read_in_chunks(tmp_path: Path) -> None:
    path = written(tmp_path, zstandard.compress(bytes(200_000_000)))
    tar = BlobTar(path, 200_000_000)
    try:
        assert max(map(len, tar.read(0, 200_000_000))) <= 2**20
    finally:
        tar.close()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    noise=st.binary(max_size=200), start=st.sampled_from([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
)
def test_any_blob_is_measured_or_is_an_error(noise: bytes, start: bytes, tmp_path: Path) -> None:
    blob = start + noise
    path = written(tmp_path, blob)
    if blob.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        with pytest.raises(DataError):
            measure(layer_of(b"a layer", blob), path)
    else:
        assert measure(layer_of(blob, blob), path).tar_bytes == len(blob)


def test_only_regular_files_are_blobs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError):
            BlobTar(path)


def test_size_is_that_of_the_files_on_disk(tmp_path: Path) -> None:
    image = odd_image()
    for tar, size in zip(image.layers, image.sizes, strict=True):
        assert measure(layer_of(tar, tar), written(tmp_path, tar)).files_bytes == size


def test_file_that_comes_twice_counts_as_its_last(tmp_path: Path) -> None:
    def entry(name: str, size: int) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.size = size
        return info, bytes(size)

    tar = entries_tar([entry("a", 1000), entry("b", 5), entry("./a", 10)])
    assert measure(layer_of(tar, tar), written(tmp_path, tar)).files_bytes == 15


def test_empty_blob_is_an_empty_layer(tmp_path: Path) -> None:
    assert measure(layer_of(b"", b""), written(tmp_path, b"")).files_bytes == 0
