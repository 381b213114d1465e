from pathlib import Path

from beiran.engine.docker.distribution_sources import LABEL, METADATA, PulledNames
from beiran.oci.references import Repository

PUB = Repository("docker.io", "library/pub")


def put_database(root: Path, *labels: bytes) -> None:
    path = root / METADATA
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [
        b"\0" * 100 + LABEL + label + b"containerd.io/uncompressedsha256:00" for label in labels
    ]
    path.write_bytes(b"".join(pages) + b"\0" * 50)


def test_a_repository_is_found_by_its_label(tmp_path: Path) -> None:
    put_database(tmp_path, b"docker.iolibrary/pub")
    names = PulledNames([tmp_path, tmp_path / "not there"])
    assert names.came_from(PUB)
    assert not names.came_from(Repository("quay.io", "library/pub"))
    assert not names.came_from(Repository("docker.io", "library/other"))


def test_a_blob_of_several_repositories_counts_for_each(tmp_path: Path) -> None:
    put_database(tmp_path, b"docker.iolibrary/a,library/pub")
    assert PulledNames([tmp_path]).came_from(PUB)


def test_what_is_pulled_later_is_seen(tmp_path: Path) -> None:
    put_database(tmp_path, b"docker.iolibrary/a")
    names = PulledNames([tmp_path])
    assert not names.came_from(PUB)
    put_database(tmp_path, b"docker.iolibrary/a", b"docker.iolibrary/pub")
    assert names.came_from(PUB)


def test_without_a_database_everything_is_believed(tmp_path: Path) -> None:
    assert PulledNames([tmp_path]).came_from(PUB)


def test_the_port_of_a_registry_is_not_in_the_label(tmp_path: Path) -> None:
    put_database(tmp_path, b"127.0.0.1team/x")
    assert PulledNames([tmp_path]).came_from(Repository("127.0.0.1:5000", "team/x"))
