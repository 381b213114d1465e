"""The composition root: everything one agent is made of, opened in order and closed in reverse."""

import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from random import SystemRandom
from typing import Final

import trio

from beiran.agent.api.openapi import openapi_route
from beiran.agent.api.routes import api_routes
from beiran.agent.engine_watcher import Holder
from beiran.agent.event_bus import Bus
from beiran.agent.gossip_driver import GossipDriver
from beiran.agent.identity import node_uuid
from beiran.agent.peer_info import Acquaintance
from beiran.agent.pull_stack import MIRROR_HOST, PullStack, open_pull_stack
from beiran.agent.status import Report
from beiran.agent.store_writer import Recorder
from beiran.clock import now_text, seconds_ago_text
from beiran.engine.interface import Engine
from beiran.engine.open import open_engine
from beiran.errors import DataError
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, MemberChanged, MemberForgotten
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.node import GossipNode, Remembered
from beiran.http.listeners import open_tcp_listeners, open_unix_listener
from beiran.http.server import HttpCounters, serve_http
from beiran.ids import NodeId, node_id_text
from beiran.net.beacon import Beacon, open_beacon
from beiran.net.interfaces import best_address
from beiran.net.systemd import notify
from beiran.net.udp import UdpSocket, open_udp
from beiran.peers.peer_client import PeerClient, open_peer_client
from beiran.settings.settings import Settings
from beiran.store.store import Store

DATABASE_NAME: Final = "beiran.db"
FIRST_LIST_S: Final = 2.0  # wait this long for the engine's first list before we show ourselves
STOP_S: Final = 4.0  # from SIGTERM to the end; systemd and the issue allow 5
SEEN_INTERVAL_S: Final = 60.0
ADDRESS_INTERVAL_S: Final = 10.0
DNS_INTERVAL_S: Final = 30.0
DNS_TIMEOUT_S: Final = 5.0

_log: Final = logging.getLogger(__name__)


async def serve_agent(settings: Settings) -> None:
    """Run an agent until SIGTERM or SIGINT.

    Raises: LocalError, one line, when something on this host stands in the way.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _open_agent(settings) as agent, trio.open_nursery() as nursery:
            nursery.start_soon(agent.serve)
            await agent.ready.wait()
            notify("READY=1")
            number = await anext(signals)
            _log.info("%s: leaving", signal.Signals(number).name)
            notify("STOPPING=1")
            with trio.move_on_after(STOP_S):
                await agent.leave()
            nursery.cancel_scope.cancel()


class Agent:
    """One agent, put together."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        node: GossipNode,
        engine: Engine,
        udp: UdpSocket,
        beacon: Beacon | None,
        listeners: list[trio.SocketListener],
        mirror_listeners: list[trio.SocketListener],
        unix_listener: trio.SocketListener,
        peers: PeerClient,
        pull_stack: PullStack,
    ) -> None:
        self._settings: Final = settings
        self._listeners: Final = listeners
        self._mirror_listeners: Final = mirror_listeners
        self._unix_listener: Final = unix_listener
        self._node: Final = node
        self._peers: Final = peers
        self._bus: Final = Bus()
        self._recorder: Final = Recorder(store, self._bus)
        self._acquaintance: Final = Acquaintance(node, self._peers, self._recorder)
        self._pull_stack: Final = pull_stack
        self._driver: Final = GossipDriver(
            node,
            udp=udp,
            beacon=beacon,
            peers=self._peers,
            record=self._record,
            swarm=pull_stack.transfer.driver.receive,
        )
        self._holder: Final = Holder(engine, self._driver, self._bus)
        http_counters = HttpCounters()
        self._report: Final = Report(
            settings,
            store,
            self._driver,
            self._holder,
            engine,
            udp,
            beacon,
            http_counters,
            self._recorder,
            pull_stack,
        )
        self._http_counters: Final = http_counters
        described = [*pull_stack.routes, *api_routes(self._report, store, self._bus)]
        document = openapi_route([*described, *pull_stack.mirror_routes])
        self._routes: Final = [*described, document, *self._driver.routes()]
        self.ready: Final = trio.Event()

    def _record(self, effects: list[Effect]) -> None:
        self._recorder.record(effects)
        self._acquaintance.notice(effects)
        if any(isinstance(effect, MemberChanged | MemberForgotten) for effect in effects):
            self._pull_stack.members_changed()

    async def serve(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._recorder.serve)
            nursery.start_soon(self._holder.serve)
            await nursery.start(self._acquaintance.serve)
            with trio.move_on_after(FIRST_LIST_S):
                await self._holder.listed.wait()
            await nursery.start(self._keep_own_row)
            serve = partial(serve_http, routes=self._routes, counters=self._http_counters)
            await nursery.start(partial(serve, self._listeners, listener="tcp"))
            await nursery.start(partial(serve, [self._unix_listener], listener="unix"))
            if self._mirror_listeners:
                mirror = self._pull_stack.serve_mirror
                await nursery.start(partial(mirror, self._mirror_listeners, self._http_counters))
            await nursery.start(self._driver.serve)
            self._driver.do(self._node.join(_join(self._settings), now=trio.current_time()))
            if self._settings.dns:
                nursery.start_soon(self._ask_dns)
            nursery.start_soon(self._note_who_was_seen)
            nursery.start_soon(self._notice_new_address)
            own = self._node.own
            _log.info("node %s (%s) at %s", node_id_text(own.node), own.name, own.address)
            _log.warning("traffic between agents is not encrypted: use it on networks you trust")
            self.ready.set()

    async def _keep_own_row(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Tell the store of our release and engine, now and whenever the engine comes or goes."""
        while True:
            self._holder.turned = trio.Event()
            await self._recorder.record_info(self._node.own.node, await self._report.info())
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await self._holder.turned.wait()

    async def leave(self) -> None:
        """Say goodbye to the cluster, and have everything written."""
        await self._driver.leave()
        await self._recorder.flushed()

    async def _ask_dns(self) -> None:
        from beiran.net.dns import resolve_peers  # dnspython takes 50 ms; most do without

        while True:
            resolved = await resolve_peers(
                self._settings.dns, self._settings.port, timeout_s=DNS_TIMEOUT_S
            )
            self._report.dns_problems = tuple(str(problem) for problem in resolved.problems)
            self._driver.do(self._node.join(resolved.addresses, now=trio.current_time()))
            await trio.sleep(DNS_INTERVAL_S)

    async def _note_who_was_seen(self) -> None:
        while True:
            now = trio.current_time()
            seen = self._node.last_heard()
            texts = {node: seconds_ago_text(now - at) for node, at in seen.items()}
            texts[self._node.own.node] = now_text()
            await self._recorder.record_seen(texts)
            await trio.sleep(SEEN_INTERVAL_S)

    async def _notice_new_address(self) -> None:
        """A host may get its address late, or another one (DHCP)."""
        while self._settings.advertise is None:
            await trio.sleep(ADDRESS_INTERVAL_S)
            address = Address(best_address(self._settings.bind), self._settings.port)
            if address != self._node.own.address:
                _log.info("this node is reached at %s now", address)
                self._driver.do(self._node.move_to(address, now=trio.current_time()))


@asynccontextmanager
async def _open_agent(settings: Settings) -> AsyncIterator[Agent]:
    uuid = node_uuid(settings.config_dir)
    with _open_store(settings, uuid) as store, open_udp(settings.bind, settings.port) as udp:
        node = _make_node(settings, store, uuid)
        beacon = open_beacon(settings.beacon_port, settings.bind) if settings.beacon else None
        listeners = await open_tcp_listeners(settings.bind, settings.port)
        mirror_listeners = await _open_mirror(settings)
        engine = open_engine(str(settings.engine), cache_dir=settings.data_dir)
        async with (
            open_unix_listener(settings.socket) as unix_listener,
            open_peer_client() as peers,
            open_pull_stack(
                settings,
                store,
                engine,
                node.members,
                peers,
                random=SystemRandom(),
                send=partial(udp.send, confirmed=False),
            ) as pull_stack,
        ):
            try:
                yield Agent(
                    settings,
                    store,
                    node,
                    engine,
                    udp,
                    beacon,
                    listeners,
                    mirror_listeners,
                    unix_listener,
                    peers,
                    pull_stack,
                )
            finally:
                for listener in (*listeners, *mirror_listeners):
                    listener.socket.close()
                if beacon is not None:
                    beacon.close()


async def _open_mirror(settings: Settings) -> list[trio.SocketListener]:
    """On loopback only: whoever reaches it may pull with this host's credentials."""
    if not settings.mirror_port:
        return []
    return await open_tcp_listeners(MIRROR_HOST, settings.mirror_port, option="--mirror-port")


@contextmanager
def _open_store(settings: Settings, uuid: NodeId) -> Iterator[Store]:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"data folder {settings.data_dir} cannot be made: {error.strerror}; "
            "choose another with --data-dir"
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
    store.apply([MemberChanged(own, None)], now_text())  # listed as we are before anybody asks
    return GossipNode(
        own,
        cluster=settings.cluster,
        config=GossipConfig(),
        random=SystemRandom(),
        now=trio.current_time(),
        # With the power the last writes may be lost, or somebody removed the file: go past any
        # version that peers may know. Nobody changes a thousand holdings a second for long.
        version=max(before.version + 1, int(wall_s * 1000)),
        holdings=before.holdings,
        remembered=[Remembered(m.member, m.version, m.holdings) for m in before.members],
        descriptions=before.descriptions,
    )


def _join(settings: Settings) -> list[Address]:
    return [Address(at.host, at.port) for at in settings.join]
