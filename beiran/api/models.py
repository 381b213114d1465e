"""What the API, the CLI and the client library speak of: nodes, images, layers.

These are the JSON shapes of ``docs/reference/api.md``; times are RFC 3339 in UTC, sizes are bytes.
"""

from typing import Literal

from msgspec import Struct, field

NodeState = Literal["alive", "suspect", "down", "left"]


class EngineInfo(Struct, frozen=True, kw_only=True):
    """An engine as its node tells of it."""

    kind: Literal["docker", "oci", "none"]
    version: str = ""
    store: str = ""
    """Where its images live: ``overlay2``, ``containerd``, a folder; empty when unknown."""
    up: bool = True


class Node(Struct, frozen=True, kw_only=True):
    """A node as the answering node sees it."""

    uuid: str
    name: str
    address: str
    port: int
    state: NodeState
    online: bool
    generation: int
    incarnation: int
    version: str | None = None
    """Release of its agent; null until its ``/info`` has answered."""
    engine: EngineInfo | None = None
    last_seen_at: str | None = None


class Image(Struct, frozen=True, kw_only=True):
    """An image and who holds it. What it *is* may be null for the moment until it is described."""

    id: str
    """``sha256:`` and the digest of its config, the same on every engine."""
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    """``NAME@sha256:…``: the manifests (or indexes) it was pulled or pushed by."""
    size_bytes: int | None
    created_at: str | None
    os: str | None
    architecture: str | None
    layers: tuple[str, ...]
    """Diff IDs, the base first."""
    available_at: tuple[str, ...]
    """``beiran+uuid://UUID`` of the nodes that hold it."""


class Layer(Struct, frozen=True, kw_only=True):
    """A layer, the images it is part of, and who holds it."""

    digest: str
    """Its diff ID: the SHA-256 of its uncompressed tar."""
    size_bytes: int
    """Bytes of the files in it, as ``docker history`` shows them."""
    images: tuple[str, ...]
    available_at: tuple[str, ...]


class Info(Struct, frozen=True, kw_only=True):
    """``/info``: the answering node, and how it is doing."""

    uuid: str
    name: str
    cluster: str
    address: str
    port: int
    state: NodeState
    generation: int
    incarnation: int
    version: str
    engine: EngineInfo
    started_at: str
    nodes_online: int
    nodes_known: int
    images: int
    layers: int
    encrypted: bool = False
    """Whether traffic between agents is encrypted and authenticated."""
    problems: tuple[str, ...] = ()
    """What is wrong now, a line each; empty when all is well."""
    counters: dict[str, int] = field(default_factory=dict)


class ErrorItem(Struct, frozen=True):
    """One error of an error body."""

    code: str
    message: str
    detail: str | None = None


class Errors(Struct, frozen=True):
    """The body of every error: ``{"errors": [...]}``, as the OCI distribution spec has it."""

    errors: tuple[ErrorItem, ...]


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of a listing followed by WebSocket (``?follow=true``), after its rows.

    First come the rows as they are now, each a bare ``Node``, ``Image`` or ``Layer``; then one
    ``{"change": "listed"}`` with nothing else, which says that those were all; then a message
    for each change, with exactly one of ``node``, ``image``, ``layer``, ``transfer``: for
    ``added`` and ``changed`` the row as it is now, for ``removed`` as it was last known. Rows that
    the listing's parameters leave out are ``removed`` when they fall out of it.
    """

    change: Literal["listed", "added", "changed", "removed"]
    node: Node | None = None
    image: Image | None = None
    layer: Layer | None = None
    transfer: "Transfer | None" = None


class TagMeaning(Struct, frozen=True, kw_only=True):
    """What a tag meant when its origin last answered for it."""

    reference: str
    """Whole: ``docker.io/library/busybox:latest``."""
    digest: str
    """Of the manifest or index."""
    media_type: str
    size_bytes: int
    resolved_at: str


LayerState = Literal["waiting", "fetching", "verifying", "done", "there"]
"""``there``: the engine or the cache had it before the pull began."""


class PullProgress(Struct, frozen=True, kw_only=True):
    """How far one layer of a pull is. Told again and again; what is told last holds."""

    digest: str
    """Of the blob that is fetched."""
    state: LayerState
    size_bytes: int | None = None
    """Null until it is known."""
    bytes_done: int = 0
    bytes_from_peers: int = 0
    bytes_from_origin: int = 0
    rate_bytes_per_s: float = 0.0


class PullDone(Struct, frozen=True, kw_only=True, tag_field="pull", tag="done"):
    """The last row of a pull that succeeded, and what ``POST /pulls`` answers."""

    reference: str
    """Whole: ``docker.io/library/busybox:latest``."""
    image: str
    """Its id."""
    digest: str | None = None
    """Of its manifest or index; null where the image has none."""
    bytes_from_peers: int = 0
    bytes_from_origin: int = 0
    duration_s: float = 0.0


class PullFailed(Struct, frozen=True, kw_only=True, tag_field="pull", tag="failed"):
    """The last row of a pull that failed: what an error of HTTP would say."""

    status: int
    code: str
    message: str


class Transfer(Struct, frozen=True, kw_only=True):
    """A blob on its way to this node or from it, on one side."""

    id: str
    digest: str
    """Of the blob."""
    direction: Literal["in", "out"]
    node: str | None
    """UUID of the other node; null where it is a registry."""
    name: str
    """Of the other node, or of the registry."""
    bytes_done: int
    bytes_total: int | None
    rate_bytes_per_s: float
    started_at: str
    reference: str | None = None
    """The image that it is for, where that is known."""


class Prefetch(Struct, frozen=True, kw_only=True):
    """What ``POST /prefetch`` is sent."""

    reference: str
    nodes: tuple[str, ...] | Literal["all"]
    """UUIDs."""
    platform: str | None = None


class Prefetching(Struct, frozen=True, kw_only=True):
    """What a node that is to prefetch an image said."""

    node: str
    name: str
    state: Literal["started", "there", "refused", "unreachable"]
    message: str = ""
    """Why, where it does not."""
