"""The source archive and the wheel hold the product, all of it and nothing else."""

import email
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Final

import pytest

import beiran

ROOT: Final = Path(__file__).parent.parent.parent
BUILD_TIMEOUT_S: Final = 120
NOT_THE_SOURCE: Final = ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made as a release is: the archive first, from it the wheel."""
    folder = tmp_path_factory.mktemp("packaging")
    source = copytree(ROOT, folder / "source", ignore=NOT_THE_SOURCE)  # a build writes into it
    # No isolation: setuptools is in this environment, and no registry is asked.
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    built = subprocess.run(
        [*words, str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stdout
    return folder / "dist"


@pytest.fixture
def wheel(dist: Path) -> Iterator[zipfile.ZipFile]:
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture
def sdist(dist: Path) -> Iterator[tarfile.TarFile]:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        yield archive


def package_files() -> set[str]:
    """The files of the two packages, below the folder that holds each package."""
    return {
        str(path.relative_to(parent))
        for parent, package in ((ROOT, "beiran"), (ROOT / "cli", "beiran_cli"))
        for path in (parent / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def modules() -> set[str]:
    return {name for name in package_files() if name.endswith(".py")}


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == package_files()
    assert {"beiran/py.typed", "beiran_cli/plan_fits.json"} <= files


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {str(Path(name).parent) for name in modules()}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in modules()} == set()


def test_the_wheel_installs_two_programs(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(name).decode().split("\n")[1:3] == [
        "beiran = beiran_cli.main:main",
        "beirand = beiran_cli.main:main_agent",
    ]


def test_the_version_of_the_wheel_is_that_of_the_package(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert (metadata["Name"], metadata["Version"]) == ("beiran", beiran.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_source_archive_holds_what_an_installation_takes(sdist: tarfile.TarFile) -> None:
    root = f"beiran-{beiran.__version__}"
    files = {name.removeprefix(f"{root}/") for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "constraints.txt", "deploy/beirand.service"} <= files
    assert {name for name in files if name.endswith(".py")} == {
        name if name.startswith("beiran/") else f"cli/{name}" for name in modules()
    }
