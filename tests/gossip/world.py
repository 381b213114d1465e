"""A small cluster of real cores on virtual time: every message is encoded, sent, and decoded."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from beiran.gossip.codec import Codec
from beiran.gossip.config import DATAGRAM_BYTES_MAX, GossipConfig
from beiran.gossip.effects import (
    Broadcast,
    Effect,
    HoldingsChanged,
    ImageDescribed,
    ImageForgotten,
    MemberChanged,
    MemberForgotten,
    SendDatagram,
    SendRequest,
    Unwatch,
    Watch,
)
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Remembered, Tables
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription, LayerDescription

LATENCY_S = 0.001
WATCH_RETRY_S = 0.05


def digest(name: str) -> Digest:
    return Digest(name.encode().ljust(32, b"\0"))


def description(name: str, layers: int = 3) -> ImageDescription:
    return ImageDescription(
        digest(name),
        "linux",
        "amd64",
        "2026-01-01T00:00:00Z",
        tuple(LayerDescription(digest(f"{name}-layer-{i}"), 1000 + i) for i in range(layers)),
    )


def holding(name: str) -> Holding:
    return Holding(digest(name), (f"{name}:latest",))


@dataclass
class Host:
    """A host with one agent; ``rows`` is what its store would hold."""

    node: GossipNode
    address: Address
    running: bool = True
    paused_until: float | None = None
    silent: bool = False
    refuses_tcp: bool = False
    backlog: list[Callable[[], None]] = field(default_factory=list)
    events: list[tuple[float, MemberChanged]] = field(default_factory=list)
    rows: dict[NodeId, set[Digest]] = field(default_factory=dict)
    described: set[Digest] = field(default_factory=set)
    watching: dict[NodeId, Address] = field(default_factory=dict)
    sent_bytes: int = 0
    sent_packets: int = 0

    @property
    def id(self) -> NodeId:
        return self.node.own.node


class World:
    """Virtual time, hosts, and a network between them."""

    def __init__(
        self, seed: int = 1, *, loss: float = 0.0, broadcast: bool = True, **config: object
    ) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.broadcast = broadcast
        self.config = GossipConfig(**config)  # type: ignore[arg-type]
        self.hosts: dict[Address, Host] = {}
        self.groups: dict[Address, int] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    # --- hosts

    def add(
        self,
        name: str = "",
        *,
        generation: int = 1,
        version: int = 1,
        node_id: NodeId | None = None,
        remembered: Iterable[Remembered] = (),
        holdings: Iterable[Holding] = (),
        descriptions: Iterable[ImageDescription] = (),
        rows: dict[NodeId, set[Digest]] | None = None,
        cluster: str = "default",
        join: Iterable[Address] = (),
        address: Address | None = None,
    ) -> Host:
        number = len(self.hosts) + 1
        address = address or Address(f"10.0.{number // 250}.{number % 250 + 1}", 8888)
        node_id = node_id or NodeId(self.random.randbytes(16))
        own = Member(node_id, name or f"h{number}", address, generation, 0, Status.ALIVE)
        node = GossipNode(
            own,
            Tables.restored(
                own,
                version,
                holdings=holdings,
                remembered=remembered,
                descriptions=descriptions,
            ),
            codec=Codec(cluster),
            config=self.config,
            random=Random(self.random.getrandbits(32)),
            now=self.now,
        )
        host = Host(node, address, rows=rows or {})
        host.described = {known.image for known in descriptions}
        self.hosts[address] = host
        self.do(host, node.start(now=self.now, beacons=self.broadcast))
        if join:
            self.do(host, node.join(join, now=self.now))
        self._schedule_advance(host)
        return host

    def cluster(self, count: int) -> list[Host]:
        hosts = [self.add() for _ in range(count)]
        self.run_until(self.converged, within_s=20)
        return hosts

    def kill(self, host: Host) -> None:
        """kill -9: its host is up and refuses connections."""
        host.running = False
        host.paused_until = None
        host.backlog.clear()
        for other in self.running():
            if host.id in other.watching:
                self._watch_ends(other, host)

    def restart(self, host: Host, *, wiped: bool = False) -> Host:
        own, node = host.node.own, host.node
        described = [node.descriptions.get(image) for image in host.described]
        return self.add(
            own.name,
            generation=own.generation + 1,
            version=1 if wiped else node.possession.version(own.node),
            node_id=own.node,
            remembered=() if wiped else remember(host),
            holdings=() if wiped else node.possession.holdings(own.node),
            descriptions=() if wiped else [known for known in described if known],
            rows=None if wiped else host.rows,
            address=host.address,
        )

    def pause(self, host: Host, seconds: float) -> None:
        host.paused_until = max(self.now + seconds, host.paused_until or 0.0)
        self.at(self.now + seconds, lambda: self._resume(host))

    def _resume(self, host: Host) -> None:
        if not host.running or host.paused_until is None or host.paused_until > self.now:
            return
        host.paused_until = None
        backlog, host.backlog = host.backlog, []
        for action in backlog:
            action()
        self._advance(host)

    def running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.running]

    # --- inputs

    def hold(self, host: Host, *names: str) -> None:
        holdings = [holding(name) for name in names]
        descriptions = [description(name) for name in names]
        self.do(host, host.node.hold(holdings, descriptions, now=self.now))

    def release(self, host: Host, *names: str) -> None:
        self.do(host, host.node.release([digest(name) for name in names], now=self.now))

    def leave(self, host: Host) -> None:
        self.do(host, host.node.leave(now=self.now))
        self.run_until(lambda: host.node.leave_acknowledged, within_s=2)
        self.kill(host)

    def partition(self, *groups: list[Host]) -> None:
        self.groups = {host.address: i for i, group in enumerate(groups) for host in group}

    def heal(self) -> None:
        self.groups = {}

    # --- time

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within_s: float) -> float:
        """Run until ``condition``; returns after how many seconds it was met."""
        start = self.now
        while not condition():
            if self.now - start > within_s or not self._heap:
                raise AssertionError(f"not within {within_s} s:\n{self.differences()}")
            self.now, _, action = heapq.heappop(self._heap)
            action()
        return self.now - start

    # --- what is true

    def online_as_seen_by(self, host: Host) -> set[NodeId]:
        return {m.node for m in host.node.members.all() if m.status.online}

    def converged(self) -> bool:
        """Everyone sees exactly those who run, and holds the same for them; rows equal cores."""
        hosts = self.running()
        truth = {host.id: set(_held(host, host.id)) for host in hosts}
        return all(self._knows(host, truth) for host in hosts)

    def _knows(self, host: Host, truth: dict[NodeId, set[Digest]]) -> bool:
        if self.online_as_seen_by(host) != set(truth):
            return False
        for owner, images in truth.items():
            if _held(host, owner) != images or host.rows.get(owner, set()) != images:
                return False
            if not images <= host.described:
                return False
        return True

    def differences(self) -> str:
        lines = [f"at {self.now:.3f}"]
        for host in self.running():
            known = sorted(
                f"{m.name}:{m.status.name}/{m.incarnation}/v{host.node.possession.version(m.node)}"
                for m in host.node.members.all()
            )
            lines.append(f"{host.node.own.name}: {' '.join(known)}")
        return "\n".join(lines)

    def false_offline(self, healthy: Iterable[Host]) -> list[str]:
        """Verdicts about hosts that were well all the time."""
        well = {host.id for host in healthy}
        return [
            f"{host.node.own.name} held {event.member.name} for down at {at:.1f}"
            for host in self.hosts.values()
            for at, event in host.events
            if event.member.node in well and event.member.status == Status.DOWN
        ]

    # --- effects

    def do(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(to=to, data=data):
                    assert len(data) <= DATAGRAM_BYTES_MAX
                    host.sent_bytes += len(data) + 42
                    host.sent_packets += 1
                    self._send(host, to, data)
                case Broadcast(data=data):
                    host.sent_bytes += len(data) + 42
                    host.sent_packets += 1
                    for address in list(self.hosts):
                        self._send(host, address, data)
                case SendRequest():
                    self._request(host, effect)
                case Watch(node=node, address=address):
                    host.watching[node] = address
                    target = self.hosts.get(address)
                    if target is None or not target.running or target.refuses_tcp:
                        self._cannot_watch(host, node)
                case Unwatch(node=node):
                    host.watching.pop(node, None)
                case MemberChanged():
                    host.events.append((self.now, effect))
                case HoldingsChanged(owner=owner, held=held, released=released, reset=reset):
                    rows = host.rows.setdefault(owner, set())
                    if reset:
                        rows.clear()
                    rows |= {h.image for h in held}
                    rows -= set(released)
                    if reset:
                        rows |= _held(host, owner)
                case ImageDescribed(description=known):
                    host.described.add(known.image)
                case ImageForgotten(image=image):
                    host.described.discard(image)
                case MemberForgotten(node=node):
                    host.rows.pop(node, None)
        self._schedule_advance(host)

    def _reachable(self, a: Address, b: Address) -> bool:
        silent = self.hosts[a].silent or (b in self.hosts and self.hosts[b].silent)
        return not silent and self.groups.get(a) == self.groups.get(b)

    def _deliver(self, host: Host, action: Callable[[], None]) -> None:
        if not host.running or self.hosts.get(host.address) is not host:
            return
        if host.paused_until is not None:
            host.backlog.append(action)
        else:
            action()

    def _send(self, host: Host, to: Address, data: bytes) -> None:
        if to not in self.hosts or not self._reachable(host.address, to):
            return
        if self.loss and self.random.random() > (1 - self.loss) ** 2:
            return
        source = host.address

        def arrive() -> None:
            target = self.hosts.get(to)
            if target is not None:
                self._deliver(target, lambda: hear(target))

        def hear(target: Host) -> None:
            self.do(target, target.node.receive_datagram(data, source, now=self.now))

        self.at(self.now + LATENCY_S * self.random.uniform(0.5, 1.5), arrive)

    def _request(self, host: Host, effect: SendRequest) -> None:
        def fail(*, refused: bool) -> None:
            self._deliver(
                host,
                lambda: self.do(
                    host,
                    host.node.request_failed(effect.token, refused=refused, now=self.now),
                ),
            )

        def arrive() -> None:
            target = self.hosts.get(effect.to)
            if target is None or not target.running or target.refuses_tcp:
                self.at(self.now + LATENCY_S, lambda: fail(refused=True))
                return

            def serve() -> None:
                reply, effects = target.node.receive_request(effect.data, now=self.now)
                self.do(target, effects)
                assert reply is not None
                self.at(self.now + LATENCY_S, lambda: self._deliver(host, lambda: got(reply)))

            def got(reply: bytes) -> None:
                self.do(host, host.node.receive_reply(effect.token, reply, now=self.now))

            self._deliver(target, serve)

        if effect.to in self.hosts and not self._reachable(host.address, effect.to):
            self.at(self.now + effect.timeout_s, lambda: fail(refused=False))
        elif self.loss and self.random.random() < 2 * self.loss:  # TCP: a second try, later
            self.at(self.now + 1.0, arrive)
        else:
            self.at(self.now + 2 * LATENCY_S, arrive)

    def _watch_ends(self, watcher: Host, target: Host) -> None:
        def connect_again() -> None:
            there = self.hosts.get(target.address)
            if there is None or not there.running:
                self.do(watcher, watcher.node.watch_broken(target.id, refused=True, now=self.now))

        if self._reachable(watcher.address, target.address):
            self.at(self.now + LATENCY_S, lambda: self._deliver(watcher, connect_again))

    def _cannot_watch(self, watcher: Host, node: NodeId) -> None:
        """Report a watch that never connected, at each retry, as the agent's driver does."""

        def again() -> None:
            address = watcher.watching.get(node)
            target = self.hosts.get(address) if address is not None else None
            if address is None or not watcher.running:
                return
            if target is not None and target.running and not target.refuses_tcp:
                return  # it is connected now
            self._deliver(watcher, report)
            self._cannot_watch(watcher, node)

        def report() -> None:
            self.do(watcher, watcher.node.watch_broken(node, refused=False, now=self.now))

        self.at(self.now + WATCH_RETRY_S, again)

    def _schedule_advance(self, host: Host) -> None:
        deadline = host.node.next_deadline()
        if deadline is not None:
            self.at(max(deadline, self.now), lambda: self._advance(host, deadline))

    def _advance(self, host: Host, planned: float | None = None) -> None:
        if planned is not None and host.node.next_deadline() != planned:
            return
        if host.running and self.hosts.get(host.address) is host and host.paused_until is None:
            self.do(host, host.node.advance(now=self.now))


def _held(host: Host, owner: NodeId) -> set[Digest]:
    return {h.image for h in host.node.possession.holdings(owner)}


def remember(host: Host) -> list[Remembered]:
    """The state that this host's store would restore at the next start."""
    node = host.node
    return [
        Remembered(
            member,
            node.possession.version(member.node),
            tuple(node.possession.holdings(member.node)),
        )
        for member in node.members.all()
        if member.node != host.id
    ]
