"""Watches: the idle TCP connections that agents keep open to their ring neighbours.

They break when the peer's process ends, which is evidence that needs no probe. Attempts and
retries are those of ``beiran/peers/connection_watch.py``.
"""

from typing import Final

from beiran.gossip.membership.member import Address
from beiran.ids import NodeId
from simulations.gossip.host import Connection, Host
from simulations.kernel.streams import (
    DATA_AGAIN_S,
    HTTP_HEAD_BYTES,
    TCP_HANDSHAKE_PACKETS,
    Streams,
)
from simulations.kernel.world import World

FIN_AGAIN_S: Final = 0.2  # Linux's minimum retransmission timeout; doubled each time
FIN_LAST_S: Final = 60.0  # about when the kernel gives up an orphaned connection

# As beiran/peers/connection_watch.py and beiran/peers/peer_client.py.
RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 15.0
QUICK_RETRIES: Final = 3
STEADY_S: Final = 5.0  # a connection that lasted this long starts anew with quick retries
OPEN_TIMEOUT_S: Final = 5.0


class Watches:
    """All watches of one world."""

    def __init__(self, world: World[Host], streams: Streams) -> None:
        self._world: Final = world
        self._streams: Final = streams

    def watch(self, host: Host, node: NodeId, address: Address) -> None:
        """Open a connection and keep it."""
        self.unwatch(host, node)
        connection = Connection(host, host.life, node, address, RETRY_MIN_S)
        host.watches[node] = connection
        self._connect(connection)

    def watch_settled(self, host: Host, node: NodeId, peer: Host) -> None:
        """Have a connection that has been open for long."""
        connection = Connection(
            host, host.life, node, peer.address, RETRY_MIN_S, peer, began=-STEADY_S, was_open=True
        )
        host.watches[node] = connection
        peer.watched_by[id(connection)] = connection

    def unwatch(self, host: Host, node: NodeId) -> None:
        """Close a connection."""
        connection = host.watches.pop(node, None)
        if connection is not None and connection.peer is not None:
            connection.peer.watched_by.pop(id(connection), None)

    def process_ended(self, host: Host) -> None:
        """The kernel of a host closes all connections of a process that ended."""
        for node in list(host.watches):
            self.unwatch(host, node)
        watched_by, host.watched_by = list(host.watched_by.values()), {}
        for connection in watched_by:
            self._send_fin(connection, host, FIN_AGAIN_S)

    def machine_off(self, host: Host) -> None:
        """A machine is gone; no peer learns that its connections are."""
        for node in list(host.watches):
            self.unwatch(host, node)
        host.watched_by.clear()

    def address_changed(self, host: Host) -> None:
        """Connections to the old address of a host lead nowhere."""
        host.watched_by.clear()

    # --- the end of a connection ------------------------------------------------------------

    def _send_fin(self, connection: Connection, peer: Host, again_s: float) -> None:
        """Send a FIN, again and again until it arrives or the kernel gives up."""
        world = self._world
        if not self._wanted(connection) or connection.peer is not peer:
            return
        if peer.up and world.network.passes(peer.number, connection.watcher.number):
            leg_s = self._streams.leg_s(peer, DATA_AGAIN_S)
            world.schedule(world.now + leg_s, self._closed, connection, peer)
        elif again_s < FIN_LAST_S:
            world.schedule(world.now + again_s, self._send_fin, connection, peer, 2 * again_s)

    def _closed(self, connection: Connection, peer: Host) -> None:
        if self._wanted(connection) and connection.peer is peer:
            self._world.processes.deliver(connection.watcher, self._reconnect, connection, peer)

    def _reconnect(self, connection: Connection, peer: Host) -> None:
        if not self._wanted(connection) or connection.peer is not peer:
            return
        connection.peer = None
        if self._world.now - connection.began >= STEADY_S:
            connection.wait_s, connection.quick = RETRY_MIN_S, 0
        if connection.quick < QUICK_RETRIES:
            connection.quick += 1
            self._connect(connection)
        else:
            self._connect_later(connection)

    # --- attempts ---------------------------------------------------------------------------

    def _connect(self, connection: Connection) -> None:
        if not self._wanted(connection) or connection.peer is not None:
            return
        world, watcher = self._world, connection.watcher
        connection.began = world.now
        self._streams.count_control(watcher, 1)
        target = world.machines.at(connection.address)
        if (
            target is None
            or not target.up
            or target.stopped_until is not None
            or not self._streams.both_ways(watcher, target)
        ):
            world.schedule(world.now + OPEN_TIMEOUT_S, self._failed, connection, False)
            return
        wait_s = self._streams.round_trip_s(watcher, target)
        if target.accepts_tcp:  # a second round trip for the request and the response's head
            world.schedule(world.now + 2 * wait_s, self._opened, connection, target, target.life)
        else:
            world.schedule(world.now + wait_s, self._failed, connection, True)

    def _connect_later(self, connection: Connection) -> None:
        at = self._world.now + connection.wait_s
        connection.wait_s = min(2 * connection.wait_s, RETRY_MAX_S)
        self._world.schedule(at, self._connect, connection)

    def _opened(self, connection: Connection, target: Host, life: int) -> None:
        if not self._wanted(connection) or connection.peer is not None:
            return
        if not target.running or target.life != life:
            self._failed(connection, target.up)
            return
        self._streams.count_control(connection.watcher, TCP_HANDSHAKE_PACKETS, 2 * HTTP_HEAD_BYTES)
        connection.peer = target
        connection.was_open = True
        target.watched_by[id(connection)] = connection

    def _failed(self, connection: Connection, refused: bool) -> None:
        if self._wanted(connection):
            refused = refused and connection.was_open
            self._world.processes.deliver(connection.watcher, self._broken, connection, refused)
            self._connect_later(connection)

    def _broken(self, connection: Connection, refused: bool) -> None:
        if self._wanted(connection):
            host = connection.watcher
            now = host.clock.local(self._world.now)
            effects = host.node.watch_broken(connection.node, refused=refused, now=now)
            self._world.do(host, effects)

    @staticmethod
    def _wanted(connection: Connection) -> bool:
        host = connection.watcher
        return (
            host.running
            and host.life == connection.life
            and host.watches.get(connection.node) is connection
        )
