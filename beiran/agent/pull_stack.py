"""The part of an agent by which hosts share bytes, put together: cache, swarm, origins, mirror.

What each piece does its own module tells; ``docs/pull.md`` tells how they play together.
"""

import os
import platform
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import trio

from beiran.agent.api.peer_routes import Giving
from beiran.agent.api.pull_routes import PullRoutes
from beiran.cache.blob_cache import BlobCache
from beiran.engine.interface import Engine
from beiran.gossip.membership.member import Address
from beiran.gossip.membership.member_table import Membership
from beiran.http.messages import Route
from beiran.http.server import HttpCounters, serve_http
from beiran.http.token_bucket import TokenBucket
from beiran.ids import NodeId, node_id_text
from beiran.mirror.routes import mirror_routes
from beiran.oci.manifests import Platform
from beiran.peers.blob_fetch import PeerBlobs
from beiran.peers.peer_client import PeerClient
from beiran.pull.engine_load import Loader
from beiran.pull.jobs import Pulls
from beiran.pull.layer_locations import Surveyor
from beiran.pull.manifest_store import Documents
from beiran.pull.peer_lookup import Nearby
from beiran.pull.resolver import Resolution
from beiran.pull.tags import Meanings
from beiran.registry.registry_client import OriginClient
from beiran.settings.settings import Settings
from beiran.store.async_reads import Reads
from beiran.store.store import Store
from beiran.swarm.config import SwarmConfig
from beiran.swarm.node import SwarmNode
from beiran.transfer.downloads import Transfers
from beiran.transfer.stats import Traffic
from beiran.transfer.swarm_driver import SwarmDriver
from beiran.transfer.uploads import Uploads

BLOBS_FOLDER: Final = "blobs"
MIRROR_HOST: Final = "127.0.0.1"
CACHE_SHARE: Final = 0.1
CACHE_BYTES_MAX: Final = 20 * 10**9
_MACHINES: Final = {
    "x86_64": Platform(os="linux", architecture="amd64"),
    "aarch64": Platform(os="linux", architecture="arm64"),
    "armv7l": Platform(os="linux", architecture="arm", variant="v7"),
    "armv6l": Platform(os="linux", architecture="arm", variant="v6"),
}


class Sharing:
    """Everything between the picture and the bytes.

    Args:
      members: everybody, ourselves among them; to be read only.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        members: Membership,
        peers: PeerClient,
        cache: BlobCache,
        *,
        random: Random,
        send: Callable[[bytes, Address], object],
    ) -> None:
        self.cache: Final = cache
        self._members: Final = members
        self._at: dict[str, dict[str, NodeId]] = {}
        """Who is online, by IP address and UUID. Asked with every upload."""
        self._peer_blobs: Final = PeerBlobs(own=members.own.node)
        self.origins: Final = OriginClient(
            settings.origins, docker_config=settings.docker_config, limit=settings.origin_limit
        )
        reads = Reads(store)
        own = members.own.node
        nearby = Nearby(peers, self._address_of)
        self.driver: Final = SwarmDriver(
            SwarmNode(
                own,
                cluster=settings.cluster,
                config=SwarmConfig(),
                random=random,
                now=trio.current_time(),
            ),
            send=send,
            peers=self._peer_blobs,
            origins=self.origins,
            name_of=self._name_of,
            peer_bytes=TokenBucket(settings.download_limit.bytes_per_s),
        )
        self.transfers: Final = Transfers(cache, engine, self.driver)
        documents = Documents(cache, engine, nearby, self.transfers, self.origins)
        self.uploads: Final = Uploads(
            cache,
            engine,
            self.driver,
            node_at=self._node_at,
            limiter=TokenBucket(settings.upload_limit.bytes_per_s),
            at_once_max=settings.upload_limit.at_once,
        )
        meanings = Meanings(
            store,
            reads,
            nearby,
            self.origins,
            online=self._others,
            random=random,
            ttl_s=settings.tag_ttl,
            offline_allowed=settings.offline_tags == "allow",
        )
        self.platforms: Final = host_platforms()
        loader = Loader(engine, self.transfers, documents)
        self.library: Final = Resolution(
            reads=reads,
            cache=cache,
            origins=self.origins,
            nearby=nearby,
            transfers=self.transfers,
            documents=documents,
            meanings=meanings,
            surveyor=Surveyor(reads, cache, engine, nearby, self.transfers, own=own, random=random),
            loader=loader,
            platforms=self.platforms,
            own=own,
        )
        self._giving: Final = Giving(
            reads, engine, documents, self.uploads, is_member=self._is_member
        )

        mirror = f"{MIRROR_HOST}:{settings.mirror_port}" if settings.mirror_port else None
        self.pulls: Final = Pulls(self.library, loader, self.transfers, engine, mirror=mirror)
        self.traffic: Final = Traffic(self.transfers, self.uploads, self.driver, members)
        self._pull_routes: Final = PullRoutes(
            self.pulls,
            self.traffic,
            peers,
            members,
            is_member=self._is_member,
            allowed=settings.allow_prefetch,
        )

    def routes(self) -> list[Route]:
        """What other agents ask, and who has this one pull."""
        return [*self._giving.routes(), *self._pull_routes.routes()]

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Share until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._peer_blobs.serve)
            await nursery.start(self.origins.serve)
            await nursery.start(self.driver.serve)
            await nursery.start(self.transfers.serve)
            await nursery.start(self.pulls.serve)
            await nursery.start(self._pull_routes.serve)
            self.members_changed()
            task_status.started()

    async def serve_mirror(
        self,
        listeners: Sequence[trio.SocketListener],
        counters: HttpCounters,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer engines at these listeners until cancelled."""
        routes = mirror_routes(self.library, platforms=self.platforms)
        serve = partial(serve_http, routes=routes, door="mirror", counters=counters)
        await serve(listeners, task_status=task_status)

    def members_changed(self) -> None:
        """Somebody came, went or moved."""
        online = self._online()
        self._at = {}
        for node, address in online.items():
            self._at.setdefault(address.host, {})[node_id_text(node)] = node
        generations = {member.node: member.generation for member in self._members.all()}
        self.driver.set_members(online, generations)

    # --- members ----------------------------------------------------------------------------

    def _online(self) -> Mapping[NodeId, Address]:
        own = self._members.own.node
        return {
            member.node: member.address
            for member in self._members.all()
            if member.status.online and member.node != own
        }

    def _others(self) -> list[NodeId]:
        return list(self._online())

    def _address_of(self, node: NodeId) -> Address | None:
        member = self._members.get(node)
        return member.address if member is not None and member.status.online else None

    def _name_of(self, node: NodeId) -> str:
        member = self._members.get(node)
        return f"node {member.name} ({member.address})" if member is not None else "a node"

    def _node_at(self, host: str, says: str | None) -> NodeId | None:
        """Which of the members at this address it is that ``says`` so; any, if it is none."""
        there = self._at.get(host)
        if there is None:
            return None
        return there.get(says or "") or next(iter(there.values()))

    def _is_member(self, host: str) -> bool:
        return host == self._members.own.address.host or host in self._at


@asynccontextmanager
async def open_cache(settings: Settings) -> AsyncIterator[BlobCache]:
    """The blob cache of the data folder. Raises: LocalError."""
    folder = settings.data_dir / BLOBS_FOLDER
    cache = await BlobCache.open(folder, cache_bytes(settings.cache_bytes, settings.data_dir))
    try:
        yield cache
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await cache.settle()


def cache_bytes(wanted: int | None, folder: Path) -> int:
    """How much the cache may hold: as set, or a tenth of the disk and at most 20 GB."""
    if wanted is not None:
        return wanted
    return min(CACHE_BYTES_MAX, int(CACHE_SHARE * shutil.disk_usage(folder).total))


def host_platforms() -> tuple[Platform, ...]:
    """What images this host runs, the best first."""
    machine = platform.machine()
    found = _MACHINES.get(machine, Platform(os="linux", architecture=machine))
    return (found, Platform(os=os.uname().sysname.lower(), architecture=found.architecture))
