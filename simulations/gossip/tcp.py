"""Requests over TCP and idle connections between neighbours, as beiran/net does them.

A host that is off or cut off is silent, and what was asked of it times out. A machine whose
process is gone refuses. A stopped process accepts (its kernel does) and does not answer. Nothing
is lost for good while both ends are there: a lost packet is sent again and costs time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from beiran.gossip.effects import SendRequest
from beiran.gossip.membership.member import Address
from beiran.ids import NodeId
from simulations.gossip.host import TCP_CONTROL, Host
from simulations.kernel.network import (
    HTTP_HEAD_BYTES,
    TCP_HANDSHAKE_PACKETS,
    TCP_PACKET_BYTES,
    TCP_PAYLOAD_BYTES,
)

if TYPE_CHECKING:
    from simulations.gossip.world import World

SYN_AGAIN_S: Final = 1.0  # Linux's first retransmission of a SYN, and of data (RTO minimum)
DATA_AGAIN_S: Final = 0.2
LOST_IN_A_ROW_MAX: Final = 6
FIN_AGAIN_S: Final = 0.2  # doubled each time
FIN_LAST_S: Final = 60.0

# As beiran/peers/connection_watch.py and beiran/peers/peer_client.py.
WATCH_RETRY_MIN_S: Final = 0.5
WATCH_RETRY_MAX_S: Final = 15.0
WATCH_QUICK_RETRIES: Final = 3
WATCH_STEADY_S: Final = 5.0
WATCH_OPEN_TIMEOUT_S: Final = 5.0


@dataclass(eq=False, slots=True)
class Watching:
    """One host's idle connection to a neighbour, or its attempts to make one."""

    watcher: Host
    life: int
    node: NodeId
    address: Address
    peer: Host | None = None
    """The machine it is open to; None while it is not."""
    began: float = 0.0
    was_open: bool = False
    quick: int = 0
    wait_s: float = WATCH_RETRY_MIN_S


class Tcp:
    """All that goes over TCP in one world."""

    def __init__(self, world: "World") -> None:
        self._world = world

    # --- requests ---------------------------------------------------------------------------

    def request(self, host: Host, effect: SendRequest) -> None:
        """Ask; the reply or the failure comes to the core, whichever is first."""
        world = self._world
        token, life = effect.token, host.life
        host.requests[token] = life
        world.schedule(world.now + effect.timeout_s, self._time_out, host, life, token)
        target = world.machine_at(effect.to)
        if target is None or not target.up or not self._both_ways(host, target):
            self._count(host, TCP_CONTROL, 1, 0)
            return
        round_trip_s = self._leg(host, target, SYN_AGAIN_S) + self._leg(target, host, SYN_AGAIN_S)
        self._count(host, TCP_CONTROL, TCP_HANDSHAKE_PACKETS, 0)
        self._count(target, TCP_CONTROL, TCP_HANDSHAKE_PACKETS, 0)
        if not target.running:
            world.schedule(world.now + round_trip_s, self._refused, host, life, token)
            return
        tag = self._count_body(host, target, effect.data)
        wait_s = round_trip_s + self._transfer_s(host, target, len(effect.data))
        if world.trace is not None:
            world.trace(f"{world.now:.9f} h{host.number} asks h{target.number} {tag}")
        arguments = (host, life, token, target, target.life, effect.data)
        world.schedule(world.now + wait_s, self._asked, *arguments)

    def _asked(
        self, host: Host, life: int, token: int, target: Host, its_life: int, data: bytes
    ) -> None:
        if not target.up or not self._world.network.passes(host.number, target.number):
            return
        if not target.running or target.life != its_life:  # reset: it ended meanwhile
            self._refused(host, life, token, refused=False)
            return
        arguments = (host, life, token, target, data)
        self._world.deliver(target, self._serve, *arguments, size_bytes=0)

    def _serve(self, host: Host, life: int, token: int, target: Host, data: bytes) -> None:
        world = self._world
        reply, effects = target.node.receive_request(data, now=target.clock.local(world.now))
        world.do(target, effects)
        if not self._both_ways(host, target):
            return
        if reply is None:  # HTTP 400
            wait_s = self._leg(target, host, DATA_AGAIN_S)
            world.schedule(world.now + wait_s, self._refused, host, life, token, False)
            return
        self._count_body(target, host, reply)
        wait_s = self._transfer_s(target, host, len(reply))
        world.schedule(world.now + wait_s, self._answered, host, life, token, reply)

    def _answered(self, host: Host, life: int, token: int, reply: bytes) -> None:
        if host.life == life and host.online:
            self._world.deliver(host, self._take_reply, host, life, token, reply)

    def _take_reply(self, host: Host, life: int, token: int, reply: bytes) -> None:
        if host.requests.pop(token, None) == life:
            now = host.clock.local(self._world.now)
            self._world.do(host, host.node.receive_reply(token, reply, now=now))

    def _refused(self, host: Host, life: int, token: int, refused: bool = True) -> None:
        if host.life == life and host.online:
            self._world.deliver(host, self._fail, host, life, token, refused)

    def _time_out(self, host: Host, life: int, token: int) -> None:
        if host.life == life and host.running and token in host.requests:
            self._world.deliver(host, self._fail, host, life, token, False)

    def _fail(self, host: Host, life: int, token: int, refused: bool) -> None:
        if host.requests.pop(token, None) == life:
            now = host.clock.local(self._world.now)
            effects = host.node.request_failed(token, refused=refused, now=now)
            self._world.do(host, effects)

    # --- watches ----------------------------------------------------------------------------

    def watch(self, host: Host, node: NodeId, address: Address) -> None:
        """Keep an idle connection."""
        self.unwatch(host, node)
        watching = Watching(host, host.life, node, address)
        host.watches[node] = watching
        self._connect(watching)

    def watch_settled(self, host: Host, node: NodeId, peer: Host) -> None:
        """Have one that has been open for long."""
        watching = Watching(host, host.life, node, peer.address, peer, -WATCH_STEADY_S, True)
        host.watches[node] = watching
        peer.watched_by[id(watching)] = watching

    def unwatch(self, host: Host, node: NodeId) -> None:
        """Close it."""
        watching = host.watches.pop(node, None)
        if watching is not None and watching.peer is not None:
            watching.peer.watched_by.pop(id(watching), None)

    def process_ended(self, host: Host) -> None:
        """Its kernel closes all its connections."""
        for node in list(host.watches):
            self.unwatch(host, node)
        host.requests.clear()
        watched_by, host.watched_by = list(host.watched_by.values()), {}
        for watching in watched_by:
            self._tell_end(watching, host, FIN_AGAIN_S)

    def machine_off(self, host: Host) -> None:
        """Nobody is told that its connections are gone."""
        for node in list(host.watches):
            self.unwatch(host, node)
        host.requests.clear()
        host.watched_by.clear()

    def _tell_end(self, watching: Watching, peer: Host, again_s: float) -> None:
        """The FIN of a process that ended, sent again until it arrives or the kernel gives up."""
        world = self._world
        if not self._alive(watching) or watching.peer is not peer:
            return
        if peer.up and world.network.passes(peer.number, watching.watcher.number):
            leg_s = self._leg(peer, watching.watcher, DATA_AGAIN_S)
            world.schedule(world.now + leg_s, self._closed, watching, peer)
        elif again_s < FIN_LAST_S:
            arguments = (watching, peer, 2 * again_s)
            world.schedule(world.now + again_s, self._tell_end, *arguments)

    def _closed(self, watching: Watching, peer: Host) -> None:
        if self._alive(watching) and watching.peer is peer:
            self._world.deliver(watching.watcher, self._reconnect, watching, peer)

    def _reconnect(self, watching: Watching, peer: Host) -> None:
        if not self._alive(watching) or watching.peer is not peer:
            return
        now = self._world.now
        watching.peer = None
        if now - watching.began >= WATCH_STEADY_S:
            watching.wait_s, watching.quick = WATCH_RETRY_MIN_S, 0
        if watching.quick < WATCH_QUICK_RETRIES:
            watching.quick += 1
            self._connect(watching)
        else:
            self._later(watching)

    def _connect(self, watching: Watching) -> None:
        if not self._alive(watching) or watching.peer is not None:
            return
        world, watcher = self._world, watching.watcher
        watching.began = world.now
        self._count(watcher, TCP_CONTROL, 1, 0)
        target = world.machine_at(watching.address)
        if (
            target is None
            or not target.up
            or target.stopped_until is not None
            or not self._both_ways(watcher, target)
        ):
            wait_s = WATCH_OPEN_TIMEOUT_S
            world.schedule(world.now + wait_s, self._unopened, watching, False)
            return
        wait_s = self._leg(watcher, target, SYN_AGAIN_S) + self._leg(target, watcher, SYN_AGAIN_S)
        if target.running:
            world.schedule(world.now + 2 * wait_s, self._opened, watching, target, target.life)
        else:
            world.schedule(world.now + wait_s, self._unopened, watching, True)

    def _opened(self, watching: Watching, target: Host, life: int) -> None:
        if not self._alive(watching) or watching.peer is not None:
            return
        if not target.running or target.life != life:
            self._unopened(watching, target.up)
            return
        self._count(watching.watcher, TCP_CONTROL, TCP_HANDSHAKE_PACKETS, 2 * HTTP_HEAD_BYTES)
        watching.peer = target
        watching.was_open = True
        target.watched_by[id(watching)] = watching

    def _unopened(self, watching: Watching, refused: bool) -> None:
        if self._alive(watching):
            refused = refused and watching.was_open
            self._world.deliver(watching.watcher, self._broken, watching, refused)
            self._later(watching)

    def _broken(self, watching: Watching, refused: bool) -> None:
        if self._alive(watching):
            host = watching.watcher
            now = host.clock.local(self._world.now)
            effects = host.node.watch_broken(watching.node, refused=refused, now=now)
            self._world.do(host, effects)

    def _later(self, watching: Watching) -> None:
        at = self._world.now + watching.wait_s
        watching.wait_s = min(2 * watching.wait_s, WATCH_RETRY_MAX_S)
        self._world.schedule(at, self._connect, watching)

    @staticmethod
    def _alive(watching: Watching) -> bool:
        host = watching.watcher
        return (
            host.running
            and host.life == watching.life
            and host.watches.get(watching.node) is watching
        )

    # --- packets ----------------------------------------------------------------------------

    def _both_ways(self, a: Host, b: Host) -> bool:
        network = self._world.network
        if a is not b and not (a.up and b.up):
            return False
        return network.passes(a.number, b.number) and network.passes(b.number, a.number)

    def _leg(self, source: Host, target: Host, again_s: float) -> float:
        """How long one packet takes, however often it must be sent."""
        link = self._world.network.between(source.number, target.number)
        random = source.path_random
        wait_s = link.latency.draw(random)
        tries = 0
        while link.loss and tries < LOST_IN_A_ROW_MAX and random.random() < link.loss:
            wait_s += again_s * 2.0**tries
            tries += 1
        return wait_s

    def _transfer_s(self, source: Host, target: Host, size_bytes: int) -> float:
        rates = [q.port.bits_per_s for q in (source.uplink, target.downlink) if q.port.bits_per_s]
        sending_s = 8 * size_bytes / min(rates) if rates else 0.0
        return self._leg(source, target, DATA_AGAIN_S) + sending_s

    def _count_body(self, source: Host, target: Host, body: bytes) -> int:
        tag = self._world.tag_of(body)
        packets = 1 + (len(body) + HTTP_HEAD_BYTES) // TCP_PAYLOAD_BYTES
        self._count(source, tag, packets, len(body) + HTTP_HEAD_BYTES)
        self._count(target, TCP_CONTROL, (packets + 1) // 2, 0)  # acks, one for two
        return tag

    @staticmethod
    def _count(host: Host, tag: int, packets: int, payload_bytes: int) -> None:
        host.traffic.packets_by_tag[tag] += packets
        host.traffic.bytes_by_tag[tag] += packets * TCP_PACKET_BYTES + payload_bytes
