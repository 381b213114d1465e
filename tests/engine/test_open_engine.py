"""Which engine a setting means."""

import socket
from pathlib import Path

import pytest

from beiran.engine import open as opening
from beiran.engine.interface import EngineUp, ImagesListed
from beiran.engine.open import open_engine
from beiran.errors import NotFound, SettingsError
from tests.engine.conftest import listening, read_layer


def test_docker_is_meant_by_the_path_of_its_socket() -> None:
    assert open_engine("docker:///run/docker.sock").info.kind == "docker"


def test_layout_is_meant_by_its_folder(tmp_path: Path) -> None:
    engine = open_engine(f"oci:{tmp_path}", cache_dir=tmp_path)
    assert (engine.info.kind, engine.info.store) == ("oci", str(tmp_path))


def test_nothing_said_means_docker_where_its_socket_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.sock"
    monkeypatch.setattr(opening, "DOCKER_SOCKET", str(path))
    assert open_engine(None).info.kind == "none"
    path.write_text("a file is no socket")
    assert open_engine(None).info.kind == "none"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert open_engine(None).info.kind == "docker"


@pytest.mark.parametrize(
    "spec", ["", "docker", "docker://", "docker://relative", "oci:", "podman", "none:", "NONE"]
)
def test_bad_engine_is_an_error_that_says_what_to_write(spec: str) -> None:
    with pytest.raises(SettingsError, match=r"write docker:///PATH.*oci:FOLDER or none") as error:
        open_engine(spec)
    assert repr(spec) in str(error.value)


async def test_no_engine_holds_nothing() -> None:
    engine = open_engine("none")
    async with listening(engine) as listener:
        assert await listener.next() == EngineUp(engine.info)
        assert await listener.next() == ImagesListed(())
        with pytest.raises(NotFound):
            await read_layer(engine, "sha256:" + 64 * "0")
