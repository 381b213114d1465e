"""The models of the API: nodes, images, layers, pulls and transfers.

``docs/reference/api.md`` shows them as JSON. Times are RFC 3339 in UTC, sizes are bytes.
"""

from typing import Literal

from msgspec import Struct, field

NodeState = Literal["alive", "suspect", "down", "left"]


class EngineInfo(Struct, frozen=True, kw_only=True):
    """An engine, as its node's ``/info`` describes it."""

    kind: Literal["docker", "oci", "none"]
    version: str = ""
    store: str = ""
    """Where it keeps images: ``overlay2``, ``containerd``, a folder; empty when unknown."""
    up: bool = True


class Node(Struct, frozen=True, kw_only=True):
    """A node, as the answering node knows it."""

    uuid: str
    name: str
    address: str
    port: int
    state: NodeState
    online: bool
    generation: int
    incarnation: int
    version: str | None = None
    """Release of its agent; null until its ``/info`` was fetched."""
    engine: EngineInfo | None = None
    last_seen_at: str | None = None


class Image(Struct, frozen=True, kw_only=True):
    """An image and its holders. Fields that describe it are null until a holder sent them."""

    id: str
    """``sha256:`` and the digest of its config, the same on every engine."""
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    """``NAME@sha256:…``: the manifests or indexes by which it was pulled or pushed."""
    size_bytes: int | None
    created_at: str | None
    os: str | None
    architecture: str | None
    layers: tuple[str, ...]
    """Diff IDs, the base first."""
    available_at: tuple[str, ...]
    """``beiran+uuid://UUID`` of each online node that holds it."""


class Layer(Struct, frozen=True, kw_only=True):
    """A layer, the images that contain it, and its holders."""

    digest: str
    """Its diff ID, the SHA-256 of its uncompressed tar."""
    size_bytes: int
    """Bytes of the files in it, as ``docker history`` counts them."""
    images: tuple[str, ...]
    available_at: tuple[str, ...]


class Info(Struct, frozen=True, kw_only=True):
    """``/info``: the answering node, its problems and its counters."""

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
    """What keeps the agent from its work, one line each; empty when all is well."""
    counters: dict[str, int] = field(default_factory=dict)


class ErrorItem(Struct, frozen=True):
    """One error of an error body."""

    code: str
    message: str
    detail: str | None = None


class Errors(Struct, frozen=True):
    """The body of every error: ``{"errors": [...]}``, as in the OCI distribution specification."""

    errors: tuple[ErrorItem, ...]


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of a listing followed by WebSocket (``?follow=true``), after its rows.

    First the server sends the rows, each a bare ``Node``, ``Image`` or ``Layer``. Then
    ``{"change": "listed"}`` says that the rows are complete. Then follows a message for each
    change, with exactly one of ``node``, ``image``, ``layer``, ``transfer``: for ``added`` and
    ``changed`` the row as it is now, for ``removed`` as it was last known. A row that the listing's
    parameters no longer include is ``removed``.
    """

    change: Literal["listed", "added", "changed", "removed"]
    node: Node | None = None
    image: Image | None = None
    layer: Layer | None = None
    transfer: "Transfer | None" = None


class TagMeaning(Struct, frozen=True, kw_only=True):
    """How a tag's origin last resolved it."""

    reference: str
    """In full: ``docker.io/library/busybox:latest``."""
    digest: str
    """Digest of the manifest or index."""
    media_type: str
    size_bytes: int
    resolved_at: str


LayerState = Literal["waiting", "fetching", "verifying", "done", "there"]
"""``there``: the engine or the cache had it before the pull began."""


class PullProgress(Struct, frozen=True, kw_only=True):
    """The progress of one layer of a pull. A later message replaces an earlier one."""

    digest: str
    """Digest of the blob that is fetched."""
    state: LayerState
    size_bytes: int | None = None
    """Null while unknown."""
    bytes_done: int = 0
    bytes_from_peers: int = 0
    bytes_from_origin: int = 0
    rate_bytes_per_s: float = 0.0


class PullDone(Struct, frozen=True, kw_only=True, tag_field="pull", tag="done"):
    """The last message of a pull that succeeded, and the answer of ``POST /pulls``."""

    reference: str
    """In full: ``docker.io/library/busybox:latest``."""
    image: str
    """The image's id."""
    digest: str | None = None
    """Digest of its manifest or index; null for an image without one."""
    bytes_from_peers: int = 0
    bytes_from_origin: int = 0
    duration_s: float = 0.0


class PullFailed(Struct, frozen=True, kw_only=True, tag_field="pull", tag="failed"):
    """The last message of a pull that failed: status, code and message of an HTTP error."""

    status: int
    code: str
    message: str


class Transfer(Struct, frozen=True, kw_only=True):
    """A blob that this node receives from, or sends to, one node or registry."""

    id: str
    digest: str
    """Digest of the blob."""
    direction: Literal["in", "out"]
    node: str | None
    """UUID of the other node; null for a registry."""
    name: str
    """Name of the other node, or of the registry."""
    bytes_done: int
    bytes_total: int | None
    rate_bytes_per_s: float
    started_at: str
    reference: str | None = None
    """The image that the blob belongs to, where known."""


class Prefetch(Struct, frozen=True, kw_only=True):
    """The body of ``POST /prefetch``."""

    reference: str
    nodes: tuple[str, ...] | Literal["all"]
    """UUIDs."""
    platform: str | None = None


class Prefetching(Struct, frozen=True, kw_only=True):
    """The answer of a node that was asked to prefetch an image."""

    node: str
    name: str
    state: Literal["started", "there", "refused", "unreachable"]
    message: str = ""
    """Why not, unless ``state`` is ``started`` or ``there``."""
