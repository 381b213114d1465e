"""Rows of an API: four nodes, three images, two layers, three events."""

import msgspec

from beiran.api.events import Event
from beiran.api.models import (
    EngineInfo,
    Image,
    Info,
    Layer,
    LayerState,
    Node,
    PullDone,
    PullProgress,
    Transfer,
)

UUID_A = "aaaaaaaa-0000-4000-8000-000000000001"
UUID_B = "bbbbbbbb-0000-4000-8000-000000000002"
UUID_GONE = "bbbbbbbb-0000-4000-8000-000000000003"
UUID_NEW = "cccccccc-0000-4000-8000-000000000004"
UUID_UNKNOWN = "dddddddd-0000-4000-8000-000000000005"

DOCKER = EngineInfo(kind="docker", version="26.1.5", store="overlay2")
LAYOUT = EngineInfo(kind="oci", version="1.0.0", store="/srv/images", up=False)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def at(*uuids: str) -> tuple[str, ...]:
    return tuple("beiran+uuid://" + uuid for uuid in uuids)


def node(uuid: str, name: str, *, state: str = "alive", engine: EngineInfo | None = None) -> Node:
    return msgspec.convert(
        {
            "uuid": uuid,
            "name": name,
            "address": "fd00::1" if name == "host-b" else "10.0.0.1",
            "port": 8888,
            "state": state,
            "online": state in ("alive", "suspect"),
            "generation": 1_790_000_000,
            "incarnation": 2,
            "version": "0.1.0" if engine else None,
            "engine": engine and msgspec.to_builtins(engine),
            "last_seen_at": None,
        },
        Node,
    )


NODES = (
    node(UUID_B, "host-b", state="suspect", engine=LAYOUT),
    node(UUID_A, "host-a", engine=DOCKER),
    node(UUID_NEW, "host-c"),
    node(UUID_GONE, "host-c", state="left"),
)

WEB = Image(
    id=digest("1"),
    tags=("registry:5000/web:1", "web:latest"),
    digests=(f"web@{digest('9')}",),
    size_bytes=4_261_574,
    created_at="2020-01-01T00:00:00.123456789Z",
    os="linux",
    architecture="amd64",
    layers=(digest("a"), digest("b")),
    available_at=at(UUID_B, UUID_A),
)
UNTAGGED = Image(
    id=digest("2"),
    tags=(),
    digests=(f"shop@{digest('8')}",),
    size_bytes=1_000_000_000,
    created_at=None,
    os="linux",
    architecture="arm64",
    layers=(digest("a"),),
    available_at=at(UUID_NEW),
)
DESCRIBED_LATER = Image(
    id=digest("3"),
    tags=("web:latest",),
    digests=(),
    size_bytes=None,
    created_at=None,
    os=None,
    architecture=None,
    layers=(),
    available_at=at(UUID_NEW),
)
IMAGES = (WEB, UNTAGGED, DESCRIBED_LATER)

LAYERS = (
    Layer(digest=digest("b"), size_bytes=999, images=(WEB.id,), available_at=at(UUID_A, UUID_B)),
    Layer(
        digest=digest("a"),
        size_bytes=4_260_575,
        images=(WEB.id, UNTAGGED.id),
        available_at=at(UUID_A, UUID_B, UUID_NEW),
    ),
)

INFO = Info(
    uuid=UUID_A,
    name="host-a",
    cluster="lab",
    address="10.0.0.1",
    port=8888,
    state="alive",
    generation=1_790_000_000,
    incarnation=2,
    version="0.1.0",
    engine=DOCKER,
    started_at="2020-01-01T00:00:00Z",
    nodes_online=3,
    nodes_known=4,
    images=1,
    layers=2,
    problems=("the disk is nearly full", "the engine is slow"),
    counters={"bad_packets": 3, "beacons_of_others": 0},
)

EVENTS = (
    Event(event="node.online", at="2020-01-01T10:00:00.123456Z", node=UUID_B, name="host-b"),
    Event(
        event="image.added",
        at="2020-01-01T10:00:01Z",
        node=UUID_A,
        name="host-a",
        image=WEB.id,
        tags=WEB.tags,
    ),
    Event(event="engine.down", at="2020-01-01T10:00:02Z", node=UUID_A, reason="it is gone"),
)


def progress(letter: str, state: LayerState, done: int = 0, of: int | None = None) -> PullProgress:
    """Two thirds of what is done came from peers, the rest from the origin."""
    return PullProgress(
        digest=digest(letter),
        state=state,
        size_bytes=of,
        bytes_done=done,
        bytes_from_peers=done * 2 // 3,
        bytes_from_origin=done - done * 2 // 3,
        rate_bytes_per_s=35_000_000.0 if state == "fetching" else 0.0,
    )


PULL = (
    progress("a", "waiting"),
    progress("b", "there", 0, 999),
    progress("a", "fetching", 0, 3_000_000),
    progress("a", "fetching", 1_500_000, 3_000_000),
    progress("a", "verifying", 3_000_000, 3_000_000),
    progress("a", "done", 3_000_000, 3_000_000),
    progress("a", "done", 3_000_000, 3_000_000),
)
PULLED = PullDone(
    reference="docker.io/library/web:latest",
    image=WEB.id,
    digest=digest("9"),
    bytes_from_peers=2_000_000,
    bytes_from_origin=1_000_000,
    duration_s=2.13,
)

TRANSFERS = (
    Transfer(
        id="2",
        digest=digest("a"),
        direction="in",
        node=UUID_B,
        name="host-b",
        bytes_done=1_500_000,
        bytes_total=3_000_000,
        rate_bytes_per_s=35_000_000.0,
        started_at="2020-01-01T10:00:00Z",
        reference="docker.io/library/web:latest",
    ),
    Transfer(
        id="1",
        digest=digest("b"),
        direction="out",
        node=UUID_NEW,
        name="host-c",
        bytes_done=0,
        bytes_total=None,
        rate_bytes_per_s=0.0,
        started_at="2020-01-01T10:00:01Z",
    ),
)
