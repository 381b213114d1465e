"""The composition root: one agent, opened from top to bottom and closed in reverse.

``main`` runs it. ``serve_agent`` is also the shutdown: on SIGTERM the agent leaves the cluster, and
then all parts close in reverse, within ``STOP_S``.
"""

import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from typing import Final

import trio

from beiran.agent.api.openapi import openapi_route
from beiran.agent.api.routes import api_routes
from beiran.agent.counters import CounterGroup, Counters, counters_of
from beiran.agent.dns_join import DnsJoin
from beiran.agent.engine_watcher import EngineWatcher
from beiran.agent.event_bus import EventBus
from beiran.agent.gossip_driver import GossipDriver
from beiran.agent.identity import node_uuid
from beiran.agent.metrics import Metrics
from beiran.agent.peer_info import PeerInfo
from beiran.agent.pull_stack import MIRROR_HOST, open_pull_stack
from beiran.agent.status import AgentStatus
from beiran.agent.store_writer import StoreWriter
from beiran.clock import now_text, seconds_ago_text
from beiran.engine.open import open_engine
from beiran.errors import DataError
from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.counters import COUNTERS as GOSSIP_COUNTERS
from beiran.gossip.effects import MemberChanged
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Remembered, Tables
from beiran.http.listeners import open_tcp_listeners, open_unix_listener
from beiran.http.server import HttpCounters, serve_http
from beiran.ids import NodeId, node_id_text
from beiran.net.beacon import open_beacon
from beiran.net.interfaces import best_address
from beiran.net.systemd import notify
from beiran.net.udp import open_udp
from beiran.peers.peer_client import open_peer_client
from beiran.settings.settings import Settings
from beiran.store.async_reads import Reads
from beiran.store.store import Store
from beiran.swarm.counters import COUNTERS as SWARM_COUNTERS
from beiran.transfer.transfer_rows import BLOB_COUNTERS

DATABASE_NAME: Final = "beiran.db"
FIRST_LIST_S: Final = 2.0  # how long the first beacon waits for the engine's first list of images
STOP_S: Final = 4.0  # from SIGTERM to the end of the process, which has 5 s in the docs
SEEN_INTERVAL_S: Final = 60.0  # how old last_seen_at may be: one small transaction a minute
ADDRESS_INTERVAL_S: Final = 10.0  # how late a new address (DHCP) is noticed; 0.1 ms each time

_log: Final = logging.getLogger(__name__)


async def serve_agent(settings: Settings) -> None:
    """Run an agent until SIGTERM or SIGINT.

    Raises: LocalError, one line, when something on this host stands in the way.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_agent(settings) as agent:
            notify("READY=1")
            number = await anext(signals)
            _log.info("%s: leaving", signal.Signals(number).name)
            notify("STOPPING=1")
            with trio.move_on_after(STOP_S):
                await agent.leave()


@asynccontextmanager
async def open_agent(settings: Settings) -> AsyncIterator["Agent"]:
    """An agent that runs: it is a member of its cluster and answers on its listeners.

    Leaving the context ends all its tasks and closes its files and sockets; ``Agent.leave`` before
    that lets the cluster know. Raises: LocalError, one line.
    """
    async with AsyncExitStack() as stack:
        # This host: files, sockets, the engine.
        uuid = node_uuid(settings.config_dir)
        store = stack.enter_context(_open_store(settings, uuid))
        udp = stack.enter_context(open_udp(settings.bind, settings.port))
        opened = open_beacon(settings.beacon_port, settings.bind) if settings.beacon else None
        beacon = stack.enter_context(opened or nullcontext())
        tcp = await stack.enter_async_context(_open_tcp(settings.bind, settings.port, "--port"))
        mirror = await stack.enter_async_context(_open_mirror(settings))
        unix = await stack.enter_async_context(open_unix_listener(settings.socket))
        engine = open_engine(settings.engine, cache_dir=settings.data_dir)

        # The parts. Each is whole when it is made, from parts above it.
        node = _make_node(settings, store, uuid)
        peers = await stack.enter_async_context(open_peer_client())
        pull_stack = await stack.enter_async_context(
            open_pull_stack(
                settings,
                store,
                engine,
                node.members,
                peers,
                random=SystemRandom(),
                send=partial(udp.send, confirmed=False),
            )
        )
        tasks = await stack.enter_async_context(trio.open_nursery())
        stack.callback(tasks.cancel_scope.cancel)
        bus = EventBus()
        writer = StoreWriter(store, bus)
        driver = GossipDriver(
            node,
            tasks,
            udp=udp,
            beacon=beacon,
            peers=peers,
            observers=[writer, PeerInfo(node, peers, writer, tasks), pull_stack],
            swarm=pull_stack.transfer.driver.receive,
        )
        watcher = EngineWatcher(engine, driver, bus)
        dns_join = DnsJoin(settings.dns, settings.port, driver)
        http_counters = HttpCounters()
        counters = Counters(
            [
                CounterGroup(help=GOSSIP_COUNTERS, values=lambda: node.counters),
                CounterGroup(
                    help=SWARM_COUNTERS,
                    values=lambda: pull_stack.transfer.driver.node.counters,
                    prefix="swarm_",
                ),
                CounterGroup(help=BLOB_COUNTERS, values=pull_stack.transfers.counters),
                counters_of(udp.counters, prefix="udp_"),
                *([counters_of(beacon.counters, prefix="beacon_socket_")] if beacon else []),
                counters_of(http_counters),
            ]
        )
        status = AgentStatus(
            cluster=settings.cluster,
            reads=Reads(store),
            driver=driver,
            engine_watcher=watcher,
            store_writer=writer,
            dns_join=dns_join,
            counters=counters,
        )
        agent = Agent(settings, driver, watcher, writer, status)
        described = [
            *pull_stack.routes,
            *api_routes(
                status,
                store,
                bus,
                metrics=Metrics(status, udp, pull_stack.transfer.cache).read,
                open_layer=engine.open_layer,
            ),
        ]
        document = openapi_route([*described, *pull_stack.mirror_routes])
        routes = [*described, document, *driver.routes()]
        serve = partial(serve_http, routes=routes, counters=http_counters)

        # What runs, in the order in which other hosts may notice it.
        tasks.start_soon(writer.serve)
        tasks.start_soon(watcher.serve)
        with trio.move_on_after(FIRST_LIST_S):
            await watcher.listed.wait()
        await tasks.start(agent.keep_own_row)
        await tasks.start(partial(serve, tcp, listener="tcp"))
        await tasks.start(partial(serve, [unix], listener="unix"))
        if mirror:
            await tasks.start(partial(pull_stack.serve_mirror, mirror, http_counters))
        await tasks.start(driver.serve)
        driver.do(node.join(_join(settings), now=trio.current_time()))
        tasks.start_soon(dns_join.serve)
        tasks.start_soon(agent.record_last_seen)
        tasks.start_soon(agent.follow_own_address)
        own = node.own
        _log.info("node %s (%s) at %s", node_id_text(own.node), own.name, own.address)
        _log.warning("traffic between agents is not encrypted: use it on networks you trust")
        yield agent


@dataclass(frozen=True)
class Agent:
    """A running agent. Made by ``open_agent``."""

    settings: Settings
    driver: GossipDriver
    engine_watcher: EngineWatcher
    store_writer: StoreWriter
    status: AgentStatus

    async def leave(self) -> None:
        """Send the leave broadcast, and wait until the store has everything."""
        await self.driver.leave()
        await self.store_writer.flushed()

    async def keep_own_row(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Write this node's release and engine, now and whenever the engine goes up or down."""
        own = self.driver.node.own.node
        await self.store_writer.record_info(own, await self.status.info())
        task_status.started()
        while True:
            await self.engine_watcher.turned()
            await self.store_writer.record_info(own, await self.status.info())

    async def record_last_seen(self) -> None:
        """Write when each node was last heard, every ``SEEN_INTERVAL_S``."""
        node = self.driver.node
        while True:
            now = trio.current_time()
            texts = {peer: seconds_ago_text(now - at) for peer, at in node.last_heard.items()}
            texts[node.own.node] = now_text()
            await self.store_writer.record_seen(texts)
            await trio.sleep(SEEN_INTERVAL_S)

    async def follow_own_address(self) -> None:
        """Announce a new address of this host (DHCP), unless the settings give one."""
        while self.settings.advertise is None:
            await trio.sleep(ADDRESS_INTERVAL_S)
            address = Address(best_address(self.settings.bind), self.settings.port)
            if address != self.driver.node.own.address:
                _log.info("the address of this node is now %s", address)
                self.driver.do(self.driver.node.move_to(address, now=trio.current_time()))


@asynccontextmanager
async def _open_tcp(host: str, port: int, option: str) -> AsyncIterator[list[trio.SocketListener]]:
    listeners = await open_tcp_listeners(host, port, option=option)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


@asynccontextmanager
async def _open_mirror(settings: Settings) -> AsyncIterator[list[trio.SocketListener]]:
    """On loopback only: a client of the mirror pulls with this host's credentials."""
    if not settings.mirror_port:
        yield []
        return
    async with _open_tcp(MIRROR_HOST, settings.mirror_port, "--mirror-port") as listeners:
        yield listeners


@contextmanager
def _open_store(settings: Settings, uuid: NodeId) -> Iterator[Store]:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"data folder {settings.data_dir} cannot be made: {error.strerror}; "
            "run beirand as root, or choose another folder with --data-dir"
        ) from error
    store = Store.open(str(settings.data_dir / DATABASE_NAME), node=uuid, cluster=settings.cluster)
    try:
        yield store
    finally:
        store.close()


def _make_node(settings: Settings, store: Store, uuid: NodeId) -> GossipNode:
    wall_s = time.time()
    generation = store.begin_life(int(wall_s))
    before = store.restore()
    own = Member(
        node=uuid,
        name=settings.name,
        address=Address(settings.advertise or best_address(settings.bind), settings.port),
        generation=generation,
        incarnation=0,
        status=Status.ALIVE,
    )
    # The first request must find this node in the listing.
    store.apply([MemberChanged(own, None)], now_text())
    tables = Tables.restored(
        own,
        # A power failure may lose the last writes, and an operator may remove the file. Peers then
        # know a higher version than the store. The wall clock's milliseconds are above any such
        # version, since no node changes a thousand holdings a second for long.
        max(before.version + 1, int(wall_s * 1000)),
        holdings=before.holdings,
        remembered=[Remembered(m.member, m.version, m.holdings) for m in before.members],
        descriptions=before.descriptions,
    )
    return GossipNode(
        own,
        tables,
        codec=Codec(settings.cluster),
        config=GossipConfig(),
        random=SystemRandom(),
        now=trio.current_time(),
    )


def _join(settings: Settings) -> list[Address]:
    return [Address(at.host, at.port) for at in settings.join]
