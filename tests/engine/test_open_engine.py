"""The engine that a setting names."""

import subprocess
import sys
from pathlib import Path

from beiran.engine.interface import EngineUp, ImagesListed
from beiran.engine.open import open_engine
from beiran.errors import NotFound
from beiran.settings.values import EngineSpec
from tests.engine.conftest import listening, read_layer


def test_docker_and_a_layout_are_opened_before_they_are_there(tmp_path: Path) -> None:
    docker = open_engine(EngineSpec("docker", "/run/docker.sock"))
    assert (docker.info.kind, docker.info.up) == ("docker", False)
    layout = open_engine(EngineSpec("oci", str(tmp_path)), cache_dir=tmp_path)
    assert (layout.info.kind, layout.info.store) == ("oci", str(tmp_path))


def test_docker_sdk_is_imported_for_docker_only() -> None:
    program = """
import sys
from beiran.agent.agent import Agent
from beiran.engine.open import open_engine
from beiran.settings.values import EngineSpec
open_engine(EngineSpec("none")), open_engine(EngineSpec("oci", "/x"))
assert "docker" not in sys.modules and "requests" not in sys.modules
open_engine(EngineSpec("docker", "/x"))
assert "docker" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_no_engine_holds_nothing() -> None:
    engine = open_engine(EngineSpec("none"))
    async with listening(engine) as listener:
        assert await listener.next() == EngineUp(engine.info)
        assert await listener.next() == ImagesListed(())
        try:
            await read_layer(engine, "sha256:" + 64 * "0")
        except NotFound:
            return
        raise AssertionError
