"""The CLI finds nodes and images by name, tag or the beginning of an ID, or says why not."""

import pytest

from beiran_cli.exits import Unfound
from beiran_cli.names import NodeNames, find_image, find_node
from tests.cli.rows import IMAGES, NODES, UNTAGGED, UUID_A, UUID_B, WEB, at, digest, node

NAMES = NodeNames(NODES)


def test_a_name_wins_over_the_beginning_of_another_uuid() -> None:
    nodes = [node(UUID_A, "host"), node(UUID_B, "aaaa")]
    assert find_node("aaaa", nodes).uuid == UUID_B


def test_of_two_online_nodes_with_one_name_neither_is_meant() -> None:
    nodes = [node(UUID_A, "host"), node(UUID_B, "host")]
    with pytest.raises(Unfound, match="could be any") as caught:
        find_node("host", nodes)
    assert UUID_A in str(caught.value)
    assert UUID_B in str(caught.value)


def test_many_candidates_are_counted() -> None:
    nodes = [node(f"aaaaaaaa-0000-4000-8000-{place:012}", "host") for place in range(30)]
    with pytest.raises(Unfound) as caught:
        find_node("aaaa", nodes)
    assert str(caught.value).endswith("  and 10 more")


def test_nodes_with_the_same_or_no_name_are_distinguished() -> None:
    nodes = NodeNames([node(UUID_A, "host"), node(UUID_B, "host")])
    unknown = "eeeeeeee-0000-4000-8000-000000000009"
    assert nodes.of(at(UUID_B, UUID_A, unknown)) == [
        "eeeeeeee",
        "host(aaaaaaaa)",
        "host(bbbbbbbb)",
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        "registry:5000/web:1",
        "docker.io/library/web:latest",
        "docker.io/web",
        f"web@{digest('9')}",
        digest("1"),
        "1" * 12,
    ],
)
def test_an_image_is_found_by_each_of_its_names(wanted: str) -> None:
    assert find_image(wanted, [WEB, UNTAGGED], NAMES) is WEB


@pytest.mark.parametrize("wanted", ["web:2", "registry:5000/web", "", "sha256:", "latest"])
def test_no_image_is_found_by_a_name_that_none_has(wanted: str) -> None:
    with pytest.raises(Unfound):
        find_image(wanted, IMAGES, NAMES)
