"""Pulls between real agents on loopback, each with an OCI layout folder as its engine."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from beiran.client.blocking_client import BlockingClient
from beiran.errors import ApiError
from beiran_cli.demo_images import DemoImage, add_image, demo_layer, make_layout
from tests.agent.processes import Beirand, free_port
from tests.agent.test_beirand import wait_for

IMAGE = DemoImage("demo/web:1.0", (demo_layer("base", 2000), demo_layer("web", 3_000_000)))
ALLOWED = DemoImage("allowed/web:1.0", (demo_layer("base", 2000), demo_layer("other", 100_000)))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since sockets' paths are."""
    path = Path(tempfile.mkdtemp(prefix="beiran-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pair(folder: Path) -> Iterator[tuple[BlockingClient, BlockingClient, str]]:
    """One with the image, one without, and the UUID of the first."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        make_layout(folder / name / "images")
    for image in (IMAGE, ALLOWED):
        add_image(folder / "a" / "images", image)
    nowhere = f"docker.io=http://127.0.0.1:{free_port()}"
    one = Beirand(folder / "a", name="one", engine=f"oci:{folder / 'a' / 'images'}", origin=nowhere)
    two = Beirand(
        folder / "b",
        name="two",
        engine=f"oci:{folder / 'b' / 'images'}",
        join=f"127.0.0.1:{one.port}",
        origin=nowhere,
        allow_prefetch="docker.io/allowed/*",
    )
    with one.running() as owner, two.running() as puller:
        both = {IMAGE.id, ALLOWED.id}
        wait_for(lambda: {i.id for i in puller.get_images(all=True)} == both)
        yield owner, puller, owner.get_info().uuid


Pair = tuple[BlockingClient, BlockingClient, str]


def test_an_image_that_only_another_node_has_is_pulled_from_it(pair: Pair) -> None:
    owner, puller, uuid = pair
    done = puller.pull(IMAGE.tag, node=uuid)
    assert done.image == IMAGE.id
    assert done.bytes_from_peers > 3_000_000
    assert done.bytes_from_origin == 0
    wait_for(lambda: [i.id for i in puller.get_images()] == [IMAGE.id])
    assert puller.get_info().counters["blob_bytes_from_peers"] >= done.bytes_from_peers
    assert owner.get_info().counters["blob_bytes_served"] >= done.bytes_from_peers
    again = puller.pull(IMAGE.tag, node=uuid)
    assert again.bytes_from_peers == 0


def test_what_was_pulled_into_a_folder_is_on_the_disk_once(pair: Pair, folder: Path) -> None:
    _, puller, uuid = pair
    puller.pull(IMAGE.tag, node=uuid)
    layers = [p for p in (folder / "b" / "images" / "blobs").rglob("*") if p.stat().st_size > 10**6]
    assert layers
    assert [path.stat().st_nlink for path in layers] == [2] * len(layers)


def test_what_the_node_does_not_have_is_said_in_one_line(pair: Pair) -> None:
    _, puller, uuid = pair
    with pytest.raises(ApiError, match="has no demo/none:1") as caught:
        puller.pull("demo/none:1", node=uuid)
    assert caught.value.status == 404


@pytest.mark.parametrize("platform", ["nonsense", "a/b/c/d"])
def test_a_platform_that_is_none_is_a_bad_request(pair: Pair, platform: str) -> None:
    _, puller, uuid = pair
    with pytest.raises(ApiError) as caught:
        puller.pull(IMAGE.tag, node=uuid, platform=platform)
    assert caught.value.status == 400


def test_a_prefetch_is_done_where_the_operator_allows_it(pair: Pair) -> None:
    owner, puller, _ = pair
    (started,) = owner.prefetch(ALLOWED.tag, nodes="all")
    assert (started.name, started.state) == ("two", "started")
    wait_for(lambda: [i.tags for i in puller.get_images()] == [(ALLOWED.tag,)])


@pytest.mark.parametrize("reference", [IMAGE.tag, "allowed:1", "quay.io/allowed/web:1.0"])
def test_a_prefetch_is_refused_where_the_operator_does_not_allow_it(
    pair: Pair, reference: str
) -> None:
    owner, puller, uuid = pair
    (refused,) = owner.prefetch(reference, nodes=[puller.get_info().uuid])
    assert (refused.name, refused.state) == ("two", "refused")
    assert "--allow-prefetch" in refused.message
    (of_ours,) = puller.prefetch(reference, nodes=[uuid])  # which allows nothing
    assert of_ours.state == "refused"
    assert puller.get_images() == []
