"""Which node or image is meant by what a person types, and what they are called in listings."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from beiran.api.models import Image, Node
from beiran.ids import NODE_URI_SCHEME
from beiran_cli.exits import Unfound

SHORT_UUID_CHARS: Final = 8  # up to the first hyphen
SHORT_DIGEST_CHARS: Final = 12  # as the docker CLI
CANDIDATES_MAX: Final = 20  # shown for an ambiguous name; more scroll the error away
_HEX: Final = re.compile(r"(sha256:)?[0-9a-f]+")
_DOCKER_HUB: Final = ("docker.io/library/", "index.docker.io/library/", "docker.io/")


def short_uuid(uuid: str) -> str:
    """The first 8 digits of a node's UUID."""
    return uuid[:SHORT_UUID_CHARS]


def short_digest(digest: str) -> str:
    """The first 12 digits of a digest, without ``sha256:``."""
    return digest.removeprefix("sha256:")[:SHORT_DIGEST_CHARS]


class NodeNames:
    """The names of nodes; with the beginning of the UUID where two nodes share a name."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        known = list(nodes)
        count = Counter(node.name for node in known)
        self._names = {
            node.uuid: node.name
            if count[node.name] == 1
            else f"{node.name}({short_uuid(node.uuid)})"
            for node in known
        }

    def of(self, available_at: Iterable[str]) -> list[str]:
        """The names of the nodes in ``available_at``, sorted."""
        uuids = [uri.removeprefix(NODE_URI_SCHEME) for uri in available_at]
        return sorted(self._names.get(uuid, short_uuid(uuid)) for uuid in uuids)


def find_node(wanted: str, nodes: Sequence[Node]) -> Node:
    """Find a node by its UUID, its name, or the beginning of its UUID, in this order.

    Of several nodes with the name, the one that is online counts (a host that was set up anew).
    Raises: Unfound if no node matches, or several do; the error lists them.
    """
    text = wanted.removeprefix(NODE_URI_SCHEME)
    named = [node for node in nodes if node.name == text]
    online = [node for node in named if node.online]
    begins = [node for node in nodes if text and node.uuid.startswith(text.lower())]
    exact = [node for node in begins if node.uuid == text.lower()]
    found = exact or (online if len(online) == 1 else named) or begins
    if len(found) == 1:
        return found[0]
    if not found:
        raise Unfound(f"there is no node {wanted!r} (beiran node list --all shows all)")
    lines = [f"  {node.uuid}  {node.name}  {_state(node)}" for node in found]
    raise Unfound(_several("node", wanted, lines))


def find_image(wanted: str, images: Sequence[Image], names: NodeNames) -> Image:
    """Find an image by a tag, a repository digest, its ID, or the beginning of its ID.

    Raises: Unfound if no image matches, or several do; the error lists them.
    """
    names_of_it = _full_names(wanted)
    found = [image for image in images if names_of_it & {*image.tags, *image.digests}]
    if not found and _HEX.fullmatch(wanted.lower()):
        start = "sha256:" + wanted.lower().removeprefix("sha256:")
        found = [image for image in images if image.id.startswith(start)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Unfound(f"there is no image {wanted!r} (beiran image list --all shows all)")
    lines = [
        f"  {short_digest(image.id)}  {image.tags[0] if image.tags else '<none>'}  "
        f"at {', '.join(names.of(image.available_at))}"
        for image in found
    ]
    raise Unfound(_several("image", wanted, lines))


def _full_names(wanted: str) -> set[str]:
    """The forms in which engines list a name: ``busybox`` is ``busybox:latest``."""
    forms = {wanted, *(wanted.removeprefix(hub) for hub in _DOCKER_HUB if wanted.startswith(hub))}
    return forms | {
        f"{form}:latest" for form in forms if "@" not in form and ":" not in form.rpartition("/")[2]
    }


def _state(node: Node) -> str:
    return "online" if node.online else "offline"


def _several(kind: str, wanted: str, lines: Sequence[str]) -> str:
    shown = list(lines[:CANDIDATES_MAX])
    if len(lines) > len(shown):
        shown.append(f"  and {len(lines) - len(shown)} more")
    return "\n".join([f"{wanted!r} could be any of these {kind}s:", *shown])
