"""Real Docker Engines, of both stores, that pull through a mirror."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from beiran.ids import digest_text
from beiran.mirror import routes as mirror_module
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    NameUnknown,
    OriginBroken,
    OriginLimited,
    Unavailable,
)
from beiran.oci.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, UNPACKED_LAYER
from tests.lab.engines import RunningEngine, Store, missing_for_engines, start_dockerd
from tests.lab.images import MadeImage, compress, docker, made_image, remove_everything
from tests.mirror.mirror_server import MirrorThread, descriptor

pytestmark = pytest.mark.lab

HUB = RepositoryName("docker.io", "library/app")
ELSEWHERE = RepositoryName("quay.io", "some/app")
IMAGE = made_image({"a": b"a" * 100_000}, {"b": bytes(range(256)) * 4000})
OTHER = made_image({"a": b"a" * 100_000}, {"c": b"only built somewhere"})


class Place(Struct):
    """An engine, and the mirrors in its configuration, in their order.

    With a second mirror, no pull goes on to the registry itself, which this host cannot reach.
    """

    engine: RunningEngine
    mirror: MirrorThread
    second: MirrorThread

    def docker(self, *arguments: str) -> str:
        return docker(self.engine.socket_path, *arguments)

    def layers_of(self, name: str) -> Any:
        return msgspec.json.decode(
            self.docker("inspect", "--format", "{{json .RootFS.Layers}}", name)
        )


@pytest.fixture(params=["overlay2", "containerd"], scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Place]:
    store: Store = request.param
    if missing := missing_for_engines(store):
        pytest.skip(missing)
    folder: Path = tmp_path_factory.mktemp(f"mirrored-{store}")
    with MirrorThread() as mirror, MirrorThread() as second:
        arguments = [f"--registry-mirror={one.url}" for one in (mirror, second)]
        with start_dockerd(folder, store=store, extra_args=arguments) as engine:
            yield Place(engine, mirror, second)


@pytest.fixture
def place(running: Place) -> Iterator[Place]:
    for mirror in (running.mirror, running.second):
        mirror.backend.clear()
    yield running
    remove_everything(running.engine.socket_path)


def publish(
    mirror: MirrorThread,
    name: RepositoryName,
    tag: str,
    image: MadeImage,
    *,
    unpacked: bool = False,
) -> str:
    """As a registry has it, in an index; or ``unpacked``, as a holder that built it composes it.

    Returns: the digest that the tag means.
    """
    library = mirror.backend
    manifest_type, config_type, layer_type, blobs = (
        OCI_MANIFEST,
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        [compress(layer, "gzip") for layer in image.layers],
    )
    if unpacked:
        manifest_type, layer_type, blobs = DOCKER_MANIFEST, UNPACKED_LAYER, list(image.layers)
        config_type = "application/vnd.docker.container.image.v1+json"
    for data in (image.config, *blobs):
        library.add_blob(name, data)
    document = {
        "config": descriptor(config_type, image.config),
        "layers": [descriptor(layer_type, data) for data in blobs],
    }
    if unpacked:
        return digest_text(library.add_manifest(name, manifest_type, document, tag))
    digest = library.add_manifest(name, manifest_type, document)
    entry = descriptor(manifest_type, library.data(name, digest))
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    return digest_text(library.add_manifest(name, OCI_INDEX, {"manifests": [entry]}, tag))


@pytest.mark.parametrize("in_files", [False, True])
def test_an_image_of_docker_hub_comes_through_the_mirror(place: Place, in_files: bool) -> None:
    place.mirror.backend.in_files = in_files
    digest = publish(place.mirror, HUB, "1", IMAGE)
    place.docker("pull", "app:1")
    assert place.layers_of("app:1") == IMAGE.diff_ids
    assert f"app@{digest}" in place.docker("inspect", "--format", "{{.RepoDigests}}", "app:1")
    assert all(question.for_engine for question in place.mirror.backend.questions)
    place.docker("rmi", "-f", "app:1")
    place.docker("pull", f"app@{digest}")
    assert place.layers_of(f"app@{digest}") == IMAGE.diff_ids


def test_an_image_that_was_only_built_comes_with_its_unpacked_layers(place: Place) -> None:
    publish(place.mirror, HUB, "built", OTHER, unpacked=True)
    place.docker("pull", "app:built")
    assert place.layers_of("app:built") == OTHER.diff_ids
    if place.engine.store == "overlay2":
        assert OTHER.id == place.docker("inspect", "--format", "{{.Id}}", "app:built")


def test_any_registrys_image_is_pulled_from_the_mirror_by_address(place: Place) -> None:
    publish(place.mirror, ELSEWHERE, "1", IMAGE)
    name = f"{place.mirror.url.removeprefix('http://')}/quay.io/some/app:1"
    place.docker("pull", name)
    assert place.layers_of(name) == IMAGE.diff_ids


@pytest.mark.parametrize(
    "error",
    [
        NameUnknown("no such repository"),
        ManifestUnknown("no such manifest"),
        Denied("not for you"),
        OriginLimited("too many pulls"),
        OriginBroken("a page of HTML"),
        Unavailable("no answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_engine_tries_its_next_mirror_after_an_error(place: Place, error: MirrorError) -> None:
    place.mirror.backend.error = error
    publish(place.second, HUB, "1", IMAGE)
    place.docker("pull", "app:1")
    assert place.layers_of("app:1") == IMAGE.diff_ids
    assert place.second.backend.questions


def test_an_engine_tries_its_next_mirror_after_a_timeout(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "FIRST_BYTE_S_MAX", 0.5)
    place.mirror.backend.hanging = True
    publish(place.second, HUB, "1", IMAGE)
    place.docker("pull", "app:1")
    assert place.layers_of("app:1") == IMAGE.diff_ids


@pytest.mark.parametrize("running", ["containerd"], indirect=True)
def test_a_blob_that_breaks_off_is_fetched_elsewhere(place: Place) -> None:
    """Its rest is asked of us again, and we say no; a graph driver asks for 75 s first."""
    publish(place.mirror, HUB, "1", IMAGE)
    publish(place.second, HUB, "1", IMAGE)
    place.mirror.backend.trouble_at = 2000
    place.mirror.backend.trouble_error = Unavailable("all went away")
    place.docker("pull", "app:1")
    assert place.layers_of("app:1") == IMAGE.diff_ids


@pytest.mark.parametrize(
    "error",
    [BlobUnknown("not here"), OriginLimited("too many pulls"), Unavailable("no holder now")],
    ids=lambda error: type(error).__name__,
)
def test_an_engine_tries_its_next_mirror_for_a_blob_that_one_lacks(
    place: Place, error: MirrorError
) -> None:
    publish(place.mirror, HUB, "1", IMAGE)
    publish(place.second, HUB, "1", IMAGE)
    place.mirror.backend.blob_error = error
    place.docker("pull", "app:1")
    assert place.layers_of("app:1") == IMAGE.diff_ids
