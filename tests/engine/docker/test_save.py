"""The archive of ``docker save``, where it breaks off."""

import os
import tarfile
import tempfile
from pathlib import Path

import pytest
import trio

from beiran.engine.docker.docker_client import open_client
from beiran.engine.docker.save import saved_image
from beiran.errors import EngineUnavailable
from tests.engine.docker.stub_engine import serving
from tests.http.serving import eventually

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def beginning() -> bytes:
    """A chunk with the beginning of a file of 1 MB in a tar."""
    info = tarfile.TarInfo("layer.tar")
    info.size = 2**20
    data = info.tobuf() + bytes(10_000)
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def test_save_that_is_cancelled_leaves_no_files(tmp_path: Path, folder: Path) -> None:
    async with serving(tmp_path) as server, open_client(server.path) as client:
        server.says("/images/one/get", HEAD + beginning())

        async def save() -> None:
            async with saved_image(client, "one"):
                raise AssertionError

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(save)
                await eventually(lambda: any(folder.glob("*/part")))
                nursery.cancel_scope.cancel()
        assert not os.listdir(folder)


async def test_archive_that_breaks_off_is_unavailable(tmp_path: Path, folder: Path) -> None:
    async with serving(tmp_path) as server, open_client(server.path) as client:
        head = HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        server.says("/images/one/get", head + beginning())
        with pytest.raises(EngineUnavailable, match="cannot be kept"):
            async with saved_image(client, "one"):
                raise AssertionError
        assert not os.listdir(folder)
