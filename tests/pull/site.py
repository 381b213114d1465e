"""One agent's pull stack, opened as an agent does it, with a real origin for docker.io."""

import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import trio

from beiran.agent.pull_stack import PullStack, host_platforms, open_pull_stack
from beiran.api.models import EngineInfo
from beiran.clock import now_text
from beiran.engine.interface import ImageToLoad
from beiran.engine.no_engine import NoEngine
from beiran.gossip.effects import HoldingsChanged, MemberChanged
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_table import MemberTable
from beiran.gossip.tables import Tables
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.oci.images import Holding, RepoDigest
from beiran.oci.manifests import DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, digest_of
from beiran.peers.peer_client import open_peer_client
from beiran.settings.settings import EngineSpec, OriginSettings, Settings
from beiran.store.store import Store
from tests.http.serving import serve
from tests.registry.origin_server import Asked, OriginServer, Reply, open_origin_server

MIB = 2**20
OWN, PEER = NodeId(b"o" * 16), NodeId(b"p" * 16)
PEER_HOST = "10.9.8.7"
NAME = RepositoryName("docker.io", "team/app")
TAR = Random(1).randbytes(3000)
LAYER = gzip.compress(TAR, mtime=0)
CONFIG = json.dumps(
    {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest_text(digest_of(TAR))]},
    }
).encode()


def row(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_text(digest_of(data)), "size": len(data)}


def manifest_of(config: bytes, config_type: str, *layers: bytes) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": row(config_type, config),
            "layers": [row("application/octet-stream", layer) for layer in layers],
        }
    ).encode()


MANIFEST = manifest_of(CONFIG, DOCKER_CONFIG, LAYER)
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_INDEX,
        "manifests": [
            row(DOCKER_MANIFEST, MANIFEST) | {"platform": msgspec.to_builtins(host_platforms()[0])}
        ],
    }
).encode()


EMPTY: Final[Mapping[str, Any]] = {}


class Registry:
    """An origin: manifests by tag and digest, blobs.

    Attributes:
      denies: says 403 to everything.
      down: closes every connection without an answer.
      silent: takes requests and never answers.
    """

    def __init__(self) -> None:
        self.tags = {"1": MANIFEST, "many": INDEX}
        self.blobs = {digest_text(digest_of(data)): data for data in (CONFIG, LAYER)}
        self.denies = False
        self.down = False
        self.silent = False

    async def __call__(self, asked: Asked) -> Reply:
        if self.silent:
            await trio.sleep_forever()
        if self.down:
            return Reply(raw=b"")
        if self.denies:
            return Reply(403)
        kind, what = asked.target.split("/")[-2:]
        if kind == "manifests":
            by_digest = {digest_text(digest_of(data)): data for data in self.tags.values()}
            data = (self.tags | by_digest).get(what)
            if data is None:
                return Reply(404)
            headers = {
                "Content-Type": json.loads(data)["mediaType"],
                "Docker-Content-Digest": digest_text(digest_of(data)),
            }
            return Reply(headers=headers, body=data)
        found = self.blobs.get(what)
        return Reply(404) if found is None else ranged(asked, found)


def ranged(asked: Asked, data: bytes) -> Reply:
    wanted = asked.headers.get("range")
    if wanted is None:
        return Reply(body=data)
    first, last = map(int, wanted.removeprefix("bytes=").split("-"))
    headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Reply(206, headers, data[first : last + 1])


class TakingEngine(NoEngine):
    """Takes any image, and holds none.

    Attributes:
      failure: raised instead of taking one.
      loaded: what it took.
    """

    info = EngineInfo(kind="oci", up=True)
    failure: Exception | None = None

    def __init__(self) -> None:
        self.loaded: list[ImageToLoad] = []

    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        return list(diff_ids)

    async def load(self, image: ImageToLoad) -> None:
        if self.failure is not None:
            raise self.failure
        self.loaded.append(image)


class Site:
    """One agent's pull stack, with an origin for docker.io, which notes what it was asked."""

    def __init__(
        self,
        stack: PullStack,
        registry: Registry,
        members: MemberTable,
        store: Store,
        asked: list[Asked],
    ) -> None:
        self.stack = stack
        self.registry = registry
        self.members = members
        self.store = store
        self.asked = asked
        self.cache = stack.transfer.cache
        self.driver = stack.transfer.driver
        self.downloads = stack.transfer.downloads
        self.uploads = stack.transfer.uploads
        self.backend = stack.backend
        self.pulls = stack.pulls
        self.transfers = stack.transfers
        self.routes = stack.routes

    def put_member(self, node: NodeId, host: str, port: int = 1, *, incarnation: int = 1) -> None:
        """Put a member online, or move it."""
        self.members.put(member_at(node, host, port, incarnation), now=0.0)
        self.stack.members_changed()

    def put_image(
        self, node: NodeId, image: Digest, tag: str, manifest: Digest | None = None
    ) -> None:
        """Have gossip say that a member holds an image, by a tag and a manifest's digest."""
        member = self.members.get(node)
        assert member is not None
        repository = tag.rpartition(":")[0]
        digests = () if manifest is None else (RepoDigest(repository, manifest),)
        holding = Holding(image, (tag,), digests)
        self.store.apply(
            [MemberChanged(member, None), HoldingsChanged(node, 1, (holding,))], now_text()
        )


Pair = tuple[Site, Site]
"""Two agents: the first gives, the second takes."""


@asynccontextmanager
async def open_pair(
    folder: Path,
    *,
    giver: Mapping[str, Any] = EMPTY,
    taker: Mapping[str, Any] = EMPTY,
    beside: Sequence[NodeId] = (),
) -> AsyncIterator[tuple[Site, Site]]:
    """Two sites that are each other's only peer: ``PEER`` gives, ``OWN`` takes.

    Args:
      beside: other members at the taker's address, which the giver knew before it.

    Datagrams go from one to the other without a socket, requests by loopback.
    """
    token = trio.lowlevel.current_trio_token()
    sites: dict[NodeId, Site] = {}
    ports: dict[NodeId, int] = {}

    def sending_from(node: NodeId) -> Callable[[bytes, Address], object]:
        other = PEER if node == OWN else OWN

        def send(data: bytes, to: Address) -> None:
            source = Address("127.0.0.1", ports[node])
            token.run_sync_soon(lambda: sites[other].driver.receive(data, source))

        return send

    async with AsyncExitStack() as stack:
        for node, settings in ((PEER, giver), (OWN, taker)):
            home = folder / node.hex()
            home.mkdir()
            opening = open_site(home, own=node, send=sending_from(node), **settings)
            sites[node] = await stack.enter_async_context(opening)
            served = await stack.enter_async_context(serve(sites[node].routes))
            ports[node] = served.port
        sites[OWN].put_member(PEER, "127.0.0.1", ports[PEER])
        for number, node in enumerate(beside):
            sites[PEER].put_member(node, "127.0.0.1", 1 + number)
        sites[PEER].put_member(OWN, "127.0.0.1", ports[OWN])
        yield sites[PEER], sites[OWN]


@asynccontextmanager
async def open_site(
    folder: Path,
    *,
    cache_bytes: int = 100 * MIB,
    engine: Any = None,
    registry: Registry | None = None,
    own: NodeId = OWN,
    send: Callable[[bytes, Address], object] = lambda data, to: None,
    **settings: Any,
) -> AsyncIterator[Site]:
    registry = registry or Registry()
    async with AsyncExitStack() as stack:
        server: OriginServer = await stack.enter_async_context(open_origin_server())
        server.answer = registry
        store = Store.open(str(folder / "beiran.db"), node=own, cluster="default")
        stack.callback(store.close)
        this = member_at(own, "10.0.0.1")
        members = MemberTable(this, Random(1), Tables.restored(this, 1))
        if own == OWN:
            members.put(member_at(PEER, PEER_HOST), now=0.0)
        opened = await stack.enter_async_context(
            open_pull_stack(
                Settings(
                    name="one",
                    engine=EngineSpec("none"),
                    origins={"docker.io": OriginSettings(url=server.url)},
                    data_dir=folder,
                    cache_bytes=cache_bytes,
                    **settings,
                ),
                store,
                engine or NoEngine(),
                members,
                await stack.enter_async_context(open_peer_client()),
                random=Random(1),
                send=send,
            )
        )
        yield Site(opened, registry, members, store, server.asked)


def member_at(node: NodeId, host: str, port: int = 1, incarnation: int = 0) -> Member:
    return Member(
        node=node,
        name=host,
        address=Address(host, port),
        generation=1,
        incarnation=incarnation,
        status=Status.ALIVE,
    )
