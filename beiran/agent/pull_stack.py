"""The part of an agent by which hosts share bytes, opened in order: swarm, cache, pulls, mirror.

``agent.py`` opens one. Data goes one way through it, from the engine's request to the bytes:
``mirror/routes``, ``pull/mirror_backend``, ``transfer/downloads``, ``transfer/swarm_driver``, and
then ``swarm`` (who is asked), ``peers`` and ``registry`` (who answers), ``cache`` (where it goes).
"""

import os
import platform
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import trio

from beiran.agent.api.peer_routes import PeerRoutes
from beiran.agent.api.pull_routes import PullRoutes
from beiran.cache.blob_cache import BlobCache
from beiran.engine.interface import Engine
from beiran.gossip.effects import Effect, MemberChanged, MemberForgotten
from beiran.gossip.membership.member import Address
from beiran.gossip.membership.member_table import MemberTable
from beiran.http.messages import Route
from beiran.http.server import HttpCounters, serve_http
from beiran.http.token_bucket import TokenBucket
from beiran.ids import Digest, NodeId, node_id_text
from beiran.mirror.routes import mirror_routes
from beiran.oci.manifests import Platform
from beiran.peers.blob_fetch import open_peer_blobs
from beiran.peers.peer_client import PeerClient
from beiran.pull.authorization import Authorization
from beiran.pull.delivery import Delivery
from beiran.pull.jobs import PullJobs
from beiran.pull.locations import Locator
from beiran.pull.manifest_store import ManifestStore
from beiran.pull.mirror_backend import MirrorBackend
from beiran.pull.peer_lookup import PeerLookup
from beiran.pull.resolver import Resolver
from beiran.pull.tags import TagResolver
from beiran.registry.registry_client import OriginClient, open_origin_client
from beiran.settings.settings import Settings
from beiran.store.async_reads import Reads
from beiran.store.store import Store
from beiran.swarm.config import SwarmConfig
from beiran.swarm.node import SwarmNode
from beiran.transfer.downloads import Downloads
from beiran.transfer.local_blobs import LocalBlobs
from beiran.transfer.swarm_driver import SwarmDriver
from beiran.transfer.transfer_rows import TransferRows
from beiran.transfer.uploads import Uploads

BLOBS_FOLDER: Final = "blobs"
MIRROR_HOST: Final = "127.0.0.1"
CACHE_SHARE: Final = 0.1
"""Of the disk; the engine needs the rest. Chosen."""

CACHE_BYTES_MAX: Final = 20 * 10**9
"""More than the images of one rollout. Chosen."""

SETTLE_S: Final = 1.0
"""How long the agent's stop waits for verified blobs to get their final name."""

_MACHINES: Final = {
    "x86_64": Platform(os="linux", architecture="amd64"),
    "aarch64": Platform(os="linux", architecture="arm64"),
    "armv7l": Platform(os="linux", architecture="arm", variant="v7"),
    "armv6l": Platform(os="linux", architecture="arm", variant="v6"),
}


class MemberDirectory:
    """The other members, as the pull stack needs them: by IP address, and only those online.

    Args:
      members: gossip's table, ourselves included; read only.
    """

    def __init__(self, members: MemberTable) -> None:
        self.members: Final = members
        self.own: Final = members.own.node
        self._at: dict[str, dict[str, NodeId]] = {}
        """Online members by IP address and UUID. Every upload looks here."""

    def refresh(self) -> None:
        """A member joined, left or moved."""
        self._at = {}
        for node, address in self.online().items():
            self._at.setdefault(address.host, {})[node_id_text(node)] = node

    def online(self) -> Mapping[NodeId, Address]:
        """The other members that are online, and their addresses."""
        return {
            member.node: member.address
            for member in self.members.all()
            if member.status.online and member.node != self.own
        }

    def generations(self) -> Mapping[NodeId, int]:
        """Of all agents, by node."""
        return {member.node: member.generation for member in self.members.all()}

    def address_of(self, node: NodeId) -> Address | None:
        """Where a member is reached; None when it is not online."""
        member = self.members.get(node)
        return member.address if member is not None and member.status.online else None

    def name_of(self, node: NodeId) -> str:
        """How the log names a node."""
        member = self.members.get(node)
        return f"node {member.name} ({member.address})" if member is not None else "a node"

    def node_at(self, host: str, uuid: str | None) -> NodeId | None:
        """The member at an IP address with this UUID; any member there if none has it."""
        there = self._at.get(host)
        if there is None:
            return None
        return there.get(uuid or "") or next(iter(there.values()))

    def is_member(self, host: str) -> bool:
        """Whether this host or an online member has that IP address."""
        return host == self.members.own.address.host or host in self._at


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStack:
    """What moves bytes."""

    cache: BlobCache
    local: LocalBlobs
    origins: OriginClient
    driver: SwarmDriver
    downloads: Downloads
    uploads: Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class PullStack:
    """What the agent uses of an open pull stack."""

    transfer: TransferStack
    backend: MirrorBackend
    mirror_routes: list[Route]
    pulls: PullJobs
    transfers: TransferRows
    routes: list[Route]
    members: MemberDirectory

    def on_effects(self, effects: Sequence[Effect]) -> None:
        """Follow which members are online, and at which addresses."""
        if any(isinstance(effect, MemberChanged | MemberForgotten) for effect in effects):
            self.members_changed()

    def members_changed(self) -> None:
        """A member joined, left or moved."""
        self.members.refresh()
        self.transfer.driver.set_members(self.members.online(), self.members.generations())

    async def serve_mirror(
        self,
        listeners: Sequence[trio.SocketListener],
        counters: HttpCounters,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer engines at these listeners until cancelled."""
        serve = partial(serve_http, routes=self.mirror_routes, listener="mirror", counters=counters)
        await serve(listeners, task_status=task_status)


@asynccontextmanager
async def open_pull_stack(
    settings: Settings,
    store: Store,
    engine: Engine,
    members: MemberTable,
    peers: PeerClient,
    *,
    random: Random,
    send: Callable[[bytes, Address], object],
) -> AsyncIterator[PullStack]:
    """Open the blob cache, and share images until the block ends.

    Args:
      members: gossip's table, ourselves included; read only.
      send: sends a datagram to an agent.

    Raises: LocalError when the cache's folder cannot be used.
    """
    directory = MemberDirectory(members)
    node = SwarmNode(
        members.own.node,
        cluster=settings.cluster,
        config=SwarmConfig(),
        random=random,
        now=trio.current_time(),
    )
    async with (
        trio.open_nursery() as nursery,
        _open_transfers(settings, engine, directory, node, nursery, send=send) as transfer,
    ):
        stack = _pull_stack(
            settings, store, engine, directory, peers, transfer, nursery, random=random
        )
        stack.members_changed()
        yield stack
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_transfers(
    settings: Settings,
    engine: Engine,
    directory: MemberDirectory,
    node: SwarmNode,
    nursery: trio.Nursery,
    *,
    send: Callable[[bytes, Address], object],
) -> AsyncIterator[TransferStack]:
    async with (
        open_peer_blobs(own=node.own) as peer_blobs,
        open_origin_client(
            settings.origins, docker_config=settings.docker_config, limit=settings.origin_limit
        ) as origins,
        AsyncExitStack() as stack,
    ):
        driver = SwarmDriver(
            node,
            nursery,
            send=send,
            peers=peer_blobs,
            origins=origins,
            name_of=directory.name_of,
            peer_bytes=TokenBucket(settings.download_limit.bytes_per_s),
        )
        cache = await stack.enter_async_context(open_cache(settings, evicted=driver.withdraw))
        local = LocalBlobs(cache, engine)
        for digest in cache.digests:
            driver.provide(digest, cache.size(digest) or 0)
        try:
            yield TransferStack(
                cache=cache,
                local=local,
                origins=origins,
                driver=driver,
                downloads=Downloads(cache, local, driver, nursery),
                uploads=Uploads(
                    cache,
                    engine,
                    local,
                    driver,
                    node_at=directory.node_at,
                    limiter=TokenBucket(settings.upload_limit.bytes_per_s),
                    at_once_max=settings.upload_limit.at_once,
                ),
            )
        finally:
            driver.close()


def _pull_stack(
    settings: Settings,
    store: Store,
    engine: Engine,
    directory: MemberDirectory,
    peers: PeerClient,
    transfer: TransferStack,
    nursery: trio.Nursery,
    *,
    random: Random,
) -> PullStack:
    reads, lookup = Reads(store), PeerLookup(peers, directory.address_of)
    cache, downloads, origins = transfer.cache, transfer.downloads, transfer.origins
    offline_allowed = settings.offline_tags == "allow"
    manifests = ManifestStore(cache, engine, lookup, downloads, origins)
    authorization = Authorization(origins, offline_allowed=offline_allowed)
    locator = Locator(
        reads,
        cache,
        engine,
        lookup,
        manifests,
        downloads,
        own=directory.own,
        random=random,
    )
    tags = TagResolver(
        store,
        reads,
        lookup,
        origins,
        online=lambda: list(directory.online()),
        random=random,
        ttl_s=settings.tag_ttl,
        offline_allowed=offline_allowed,
    )
    resolver = Resolver(
        reads=reads,
        lookup=lookup,
        manifests=manifests,
        tags=tags,
        locator=locator,
        authorization=authorization,
        platforms=host_platforms(),
        own=directory.own,
    )
    delivery = Delivery(
        engine=engine,
        local=transfer.local,
        downloads=downloads,
        manifests=manifests,
        locator=locator,
        lookup=lookup,
        authorization=authorization,
        platforms=host_platforms(),
    )
    backend = MirrorBackend(
        reads=reads,
        origins=origins,
        lookup=lookup,
        local=transfer.local,
        downloads=downloads,
        locator=locator,
        authorization=authorization,
        resolver=resolver,
        delivery=delivery,
    )
    mirror = f"{MIRROR_HOST}:{settings.mirror_port}" if settings.mirror_port else None
    pulls = PullJobs(resolver, delivery, downloads, engine, nursery, mirror=mirror)
    transfers = TransferRows(transfer.driver, transfer.uploads, transfer.local, directory.members)
    peer_routes = PeerRoutes(
        reads, engine, manifests, transfer.uploads, is_member=directory.is_member
    )
    pull_routes = PullRoutes(
        pulls,
        transfers,
        peers,
        directory.members,
        nursery,
        is_member=directory.is_member,
        allowed=settings.allow_prefetch,
    )
    return PullStack(
        transfer=transfer,
        backend=backend,
        mirror_routes=mirror_routes(backend, platforms=host_platforms()),
        pulls=pulls,
        transfers=transfers,
        routes=[*peer_routes.routes(), *pull_routes.routes()],
        members=directory,
    )


@asynccontextmanager
async def open_cache(
    settings: Settings, *, evicted: Callable[[Digest], object]
) -> AsyncIterator[BlobCache]:
    """The blob cache of the data folder. Raises: LocalError."""
    folder = settings.data_dir / BLOBS_FOLDER
    size = cache_bytes(settings.cache_bytes, settings.data_dir)
    cache = await BlobCache.open(folder, size, evicted=evicted)
    try:
        yield cache
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(SETTLE_S):
            await cache.settle()


def cache_bytes(wanted: int | None, folder: Path) -> int:
    """The size of the cache: as set, or ``CACHE_SHARE`` of the disk up to ``CACHE_BYTES_MAX``."""
    if wanted is not None:
        return wanted
    return min(CACHE_BYTES_MAX, int(CACHE_SHARE * shutil.disk_usage(folder).total))


def host_platforms() -> tuple[Platform, ...]:
    """The platforms whose images this host runs, the best first."""
    machine = platform.machine()
    found = _MACHINES.get(machine, Platform(os="linux", architecture=machine))
    return (found, Platform(os=os.uname().sysname.lower(), architecture=found.architecture))
