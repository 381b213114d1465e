"""Virtual time, hosts, and a network between them.

How to use it:

    world = World(seed=1, link=Link(loss=0.02))
    hosts = world.cluster(20)                    # started, and come together by beacons
    world.hold(hosts[0], "nginx")                # images are made of their names
    world.run(5.0)                               # seconds of virtual time
    world.kill(hosts[3])                         # kill -9: the machine refuses connections
    took_s = world.run_until(world.converged, within_s=30.0)

- ``World.hosts`` is the list of machines, ``host.number`` a machine's place in it. A machine stays
  when its process ends; ``restart`` starts the next life on it. ``host.node`` is the real core
  (``beiran.gossip.node.GossipNode``), to be read at will and fed only through the world.
- ``settled(count)`` gives a cluster that came together long ago, at once: the only way to have
  10,000 nodes. Their tables share what is equal.
- Faults are methods here (``kill``, ``power_off``, ``restart``, ``stop``, ``block``, ``slow``, …)
  and rules of ``world.network`` (``partition``, ``cut``, ``change(loss=…)``).
  ``simulations.gossip.operations`` has them as operations for scenarios.
- Watch what happens by ``world.found.append(callback)``: called with (host, effect) for whatever a
  core finds out (``MemberChanged``, ``HoldingsChanged``, …), at ``world.now``. By
  ``world.every(1.0, callback)``: called each second. ``world.befell`` and
  ``world.network.changed`` tell what is done to a host and to the network. ``host.traffic``
  counts what a host sent, by kind; ``world.dropped`` what never came, by reason;
  ``world.steps`` the events.
- ``world.trace`` is called with one line for each thing that happens, if it is set.
- Everything depends on the seed, nothing on the hash seed: the same calls give the same trace.

``carried=True`` turns the codec off: messages are handed over as they are. That saves a fifth of
the time at best, and costs: datagrams' sizes are estimates, what a codec would refuse or change
passes, older wire versions and babblers cannot be had (``simulations.gossip.carried``).
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from beiran.gossip.codec import Codec
from beiran.gossip.common import CommonPicture
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Broadcast, Effect, SendDatagram, SendRequest, Unwatch, Watch
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.node import GossipNode
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription
from beiran.sansio.wire import HEADER_BYTES
from simulations.gossip.carried import CarriedCodec
from simulations.gossip.host import RECEIVE_BUFFER_BYTES, Disk, Host
from simulations.gossip.images import description, digest, holding
from simulations.gossip.memo import MemoCodec
from simulations.gossip.tcp import Tcp
from simulations.kernel.chance import stream
from simulations.kernel.clock import HostClock
from simulations.kernel.network import IP_UDP_BYTES, UDP_OVERHEAD_BYTES, Link, Network

AGENT_PORT: Final = 8888
ICMP_INTERVAL_S: Final = (
    1.0  # Linux tells one sender of closed ports once a second (icmp_ratelimit)
)
STORM_STEPS_PER_HOST_S: Final = 2000  # five are usual, and some hundred where all come at once
CLUSTER: Final = "default"
LAN: Final = "lan"
_TAG_AT: Final = HEADER_BYTES + 1

Action = Callable[..., None]


class World:
    """One run.

    Args:
      seed: decides everything that is left to chance.
      link: between any two hosts.
      config: of every core.
      beacons: whether agents broadcast; else they find each other by ``join`` only.
      icmp: whether a machine without an agent says so to whoever sends it datagrams.
      carried: no codec; see above.

    Attributes:
      now: virtual time in seconds; begins at 0.
      dropped: datagrams that never came, by reason.
      steps: events handled.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        link: Link | None = None,
        config: GossipConfig | None = None,
        beacons: bool = True,
        icmp: bool = True,
        carried: bool = False,
    ) -> None:
        self.seed: Final = seed
        self.now = 0.0
        self.config: Final = config or GossipConfig()
        self.network: Final = Network(link or Link())
        self.tcp: Final = Tcp(self)
        self.beacons: Final = beacons
        self.icmp: Final = icmp
        self.carried: Final = carried
        self.hosts: Final[list[Host]] = []
        self.found: Final[list[Callable[[Host, Effect], None]]] = []
        self.befell: Final[list[Callable[[Host, str], None]]] = []
        self.trace: Callable[[str], None] | None = None
        self.save: Callable[[Host], Disk] = Host.remember
        self.rescue: Callable[[Host], Disk] = Host.rescue
        self.dropped: Final[Counter[str]] = Counter()
        self.steps = 0
        self.largest_datagram_bytes = 0
        self._machines: Final[dict[Address, Host]] = {}
        self._lans: Final[dict[str, list[Host]]] = {}
        self._heap: Final[list[tuple[float, int, Action, tuple[Any, ...]]]] = []
        self._sequence = 0
        self._shared_codec: Final = CarriedCodec(CLUSTER) if carried else MemoCodec(CLUSTER)

    # --- hosts ------------------------------------------------------------------------------

    def add(
        self,
        name: str = "",
        *,
        node_id: NodeId | None = None,
        lan: str = LAN,
        join: Iterable[Host | Address] = (),
        codec: Codec | None = None,
        images: Sequence[str] = (),
    ) -> Host:
        """A new machine whose agent starts now, holding ``images`` already."""
        number = len(self.hosts)
        node_id = node_id or self._new_id(number)
        address = self.new_address()
        own = self._own_member(node_id, name or f"h{number}", address, HostClock(), Disk())
        host = self._put(own, lan, codec or self.codec(), Disk())
        host.engine = {digest(image): holding(image) for image in images}
        host.described = {digest(image): description(image) for image in images}
        self._start(host, join)
        return host

    def clone(self, host: Host) -> Host:
        """A new machine with a copy of this one's disk: two agents with one UUID."""
        disk = host.remember() if host.running else host.disk
        number = len(self.hosts)
        own = self._own_member(host.id, f"h{number}", self.new_address(), HostClock(), disk)
        clone = self._put(own, host.lan, self.codec(), disk)
        clone.clone = True
        clone.engine, clone.described = dict(host.engine), dict(host.described)
        self._start(clone, ())
        return clone

    def cluster(self, count: int, *, within_s: float = 60.0) -> list[Host]:
        """``count`` new machines, and time until they have come together.

        Without beacons they join the first.
        """
        hosts = [self.add()]
        first = [] if self.beacons else hosts
        hosts += [self.add(join=first) for _ in range(count - 1)]
        self.run_until(self.converged, within_s=within_s)
        return hosts

    def settled(
        self,
        count: int,
        images: Callable[[int], Sequence[str]] = lambda number: (),
        *,
        layers: int = 3,
    ) -> list[Host]:
        """A cluster of ``count`` that came together long ago; the world must be empty.

        Args:
          images: what each host holds, by its number.
          layers: of each image.
        """
        assert not self.hosts, "only a whole cluster can have come together long ago"
        holdings: dict[str, Holding] = {}
        descriptions: dict[str, ImageDescription] = {}
        members, versions, held = [], [], []
        clock = HostClock()
        for number in range(count):
            names = images(number)
            for name in names:
                if name not in holdings:
                    holdings[name], descriptions[name] = holding(name), description(name, layers)
            own = self._own_member(
                self._new_id(number), f"h{number}", _address(number), clock, Disk()
            )
            members.append(own)
            versions.append(int(clock.wall_s(self.now) * 1000))
            held.append([holdings[name] for name in names])
        common = CommonPicture.of(zip(members, versions, held, strict=True), descriptions.values())
        for own in members:
            host = self._put(own, LAN, self.codec(), Disk(), common)
            host.engine = {h.image: h for h in held[host.number]}
        for host in self.hosts:
            now = host.clock.local(self.now)
            for effect in host.node.start(now=now, beacons=self.beacons, settled=True):
                if isinstance(effect, Watch):
                    self.tcp.watch_settled(host, effect.node, self._machines[effect.address])
                else:
                    self.do(host, [effect])
            self._plan(host)
        return self.hosts

    def online(self) -> list[Host]:
        """Machines that are on, with an agent (perhaps a stopped one)."""
        return [host for host in self.hosts if host.running and host.up]

    def codec(self) -> Codec:
        """What agents of this release speak."""
        return self._shared_codec

    def new_address(self) -> Address:
        """One that nobody has."""
        number = len(self.hosts)
        while _address(number) in self._machines:
            number += 1
        return _address(number)

    def machine_at(self, address: Address) -> Host | None:
        """The machine with this address, on or off."""
        return self._machines.get(address)

    # --- what befalls a host ----------------------------------------------------------------

    def kill(self, host: Host) -> None:
        """kill -9: the process is gone; its machine refuses connections."""
        if not host.running:
            return
        self._befall(host, "is killed")
        host.disk = self.save(host)
        self._end_process(host)
        if host.up:
            self.tcp.process_ended(host)

    def power_off(self, host: Host) -> None:
        """The machine is gone without a word. ``restart`` brings it back.

        What its database was told in this life is lost, except the generation: SQLite may lose
        the last commits with the power, and this is the worst of it.
        """
        if not host.up:
            return
        self._befall(host, "is off")
        if host.running:
            host.disk = self.rescue(host)
            self._end_process(host)
        host.up = False
        self.tcp.machine_off(host)

    def restart(
        self,
        host: Host,
        *,
        wiped: bool = False,
        join: Iterable[Host | Address] = (),
        codec: Codec | None = None,
    ) -> Host:
        """Start the next life on a machine, killing the one that runs.

        Args:
          wiped: without its database. What the engine holds is the engine's, and stays.
        """
        self.kill(host)
        host.up = True
        host.life += 1
        before = Disk() if wiped else host.disk
        host.disk_kept = not wiped
        host.codec = codec or host.codec
        own = self._own_member(host.id, host.name, host.address, host.clock, before)
        host.node = self._core(own, host.codec, host.clock, before, host.life, host.number)
        host.running = True
        self._befall(host, "starts again")
        self._start(host, join)
        return host

    def leave(self, host: Host, *, patience_s: float = 1.0) -> None:
        """SIGTERM: say goodbye, and end when that was heard or patience is over."""
        if not host.running or host.stopped_until is not None:
            return
        self._befall(host, "leaves")
        host.left_in_life = host.life
        self.do(host, host.node.leave(now=host.clock.local(self.now)))
        self._end_when_heard(host, host.life, self.now + patience_s)

    def stop(self, host: Host, seconds: float) -> None:
        """SIGSTOP, and SIGCONT ``seconds`` later: nothing runs, and what comes waits."""
        if host.running:
            self._befall(host, f"is stopped for {seconds:g} s")
            host.stopped_until = max(self.now + seconds, host.stopped_until or 0.0)
            host.note_hampered()
            self.schedule(self.now + seconds, self._resume, host, host.life)

    def block(self, host: Host, seconds: float) -> None:
        """Hold back all that it receives, and all that it sends; its timers run on.

        Lifeguard's experiments: blocked immediately before sending, immediately after receiving.
        """
        if host.running:
            self._befall(host, f"is blocked for {seconds:g} s")
            host.blocked_until = max(self.now + seconds, host.blocked_until or 0.0)
            host.note_hampered()
            self.schedule(self.now + seconds, self._unblock, host, host.life)

    def slow(self, host: Host, cost_s: float) -> None:
        """Each input takes its agent this long from now on; 0 is well again."""
        if cost_s != host.cost_s:
            self._befall(host, f"takes {cost_s:g} s for each input")
        host.cost_s = cost_s
        host.note_hampered()

    def drift(self, host: Host, rate: float) -> None:
        """Its monotonic clock counts ``rate`` seconds in one from now on."""
        host.clock.drift(rate, self.now)
        host.wakes_at = math.inf
        self._plan(host)

    def step_clock(self, host: Host, by_s: float) -> None:
        """Somebody sets its wall clock: seen by its next life."""
        host.clock.wall_error_s += by_s

    def move(self, host: Host, address: Address) -> None:
        """It gets another address, and its agent notices."""
        if address in self._machines:
            return
        self._befall(host, f"moves to {address}")
        del self._machines[host.address]
        host.address = address
        self._machines[address] = host
        for watching in list(host.watched_by.values()):  # what was open goes to nowhere
            host.watched_by.pop(id(watching))
        if host.running:
            self.do(host, host.node.move_to(address, now=host.clock.local(self.now)))

    # --- inputs -----------------------------------------------------------------------------

    def hold(self, host: Host, *images: str, tag: str = "latest") -> None:
        """Its engine has these images now, each under this tag."""
        holdings = [holding(image, tag) for image in images]
        descriptions = [description(image) for image in images]
        self.hold_these(host, holdings, descriptions)

    def hold_these(
        self, host: Host, holdings: Sequence[Holding], descriptions: Sequence[ImageDescription]
    ) -> None:
        """The same, with holdings of your own making."""
        host.engine |= {held.image: held for held in holdings}
        host.described |= {known.image: known for known in descriptions}
        if host.running:
            self.deliver(host, self._engine_tells, host, holdings, descriptions, ())

    def release(self, host: Host, *images: str | Digest) -> None:
        """Its engine has these images no more."""
        digests = [digest(image) if isinstance(image, str) else image for image in images]
        for image in digests:
            host.engine.pop(image, None)
            host.described.pop(image, None)
        if host.running:
            self.deliver(host, self._engine_tells, host, (), (), digests)

    def join(self, host: Host, addresses: Iterable[Host | Address]) -> None:
        """Its operator names addresses of others."""
        texts = [a.address if isinstance(a, Host) else a for a in addresses]
        self.do(host, host.node.join(texts, now=host.clock.local(self.now)))

    def partition(self, *groups: Sequence[Host]) -> None:
        """Split the network into these groups; who is in none is with the first."""
        self.network.partition(*([host.number for host in group] for group in groups))

    def heal(self) -> None:
        """Everybody reaches everybody again."""
        self.network.heal()

    # --- time -------------------------------------------------------------------------------

    def schedule(self, when: float, action: Action, *arguments: Any) -> None:
        """Call ``action(*arguments)`` at the virtual time ``when``."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, action, arguments))

    def every(self, interval_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` now and every ``interval_s`` seconds."""
        action()
        self.schedule(self.now + interval_s, self.every, interval_s, action)

    def run(self, seconds: float) -> None:
        """Let that much virtual time pass. Raises: Storm, if that takes far too many events."""
        end = self.now + seconds
        heap, pop = self._heap, heapq.heappop
        steps = 0
        steps_max = STORM_STEPS_PER_HOST_S * (len(self.hosts) + 10) * (seconds + 1.0)
        while heap and heap[0][0] <= end:
            self.now, _, action, arguments = pop(heap)
            steps += 1
            if steps > steps_max:
                raise Storm(f"{steps} events within {seconds:g} s, and no end of it")
            action(*arguments)
        self.now = end
        self.steps += steps

    def run_until(
        self, condition: Callable[[], bool], *, within_s: float, every_s: float = 0.0
    ) -> float:
        """Run until ``condition`` is met; it is looked at after every event, or more rarely.

        Returns: after how many seconds it was met.
        Raises: NotReached, with what differs, if it is not met in time.
        """
        start = self.now
        while not condition():
            if self.now - start > within_s or not self._heap:
                raise NotReached(f"not within {within_s} s:\n{self.differences()}")
            if every_s:
                self.run(every_s)
                continue
            self.now, _, action, arguments = heapq.heappop(self._heap)
            self.steps += 1
            action(*arguments)
        return self.now - start

    # --- what is true -----------------------------------------------------------------------

    def converged(self) -> bool:
        """Whether every online host sees exactly the online ones, and what each of them holds."""
        hosts = self.online()
        pictures = {host.node.members.picture for host in hosts}
        if len(pictures) > 1:  # quick, and nearly always enough
            return False
        ids = {host.id for host in hosts}
        versions = {host.id: host.node.possession.version(host.id) for host in hosts}
        return all(self._sees(host, ids, versions) for host in hosts)

    def _sees(self, host: Host, ids: set[NodeId], versions: dict[NodeId, int]) -> bool:
        members, possession = host.node.members, host.node.possession
        if members.online_count != len(ids):
            return False
        wanted = host.node.descriptions.wanted_count
        online = {member.node for member in members.all() if member.status.online}
        if online != ids or any(possession.version(n) != v for n, v in versions.items()):
            return False
        return not wanted or all(
            host.node.descriptions.get(image) is not None
            for other in self.online()
            for image in other.engine
        )

    def differences(self) -> str:
        """What each online host believes, for people."""
        lines = [f"at {self.now:.3f}"]
        for host in self.online():
            node = host.node
            known = sorted(
                f"{m.name}:{m.status.name}/{m.incarnation}/v{node.possession.version(m.node)}"
                for m in node.members.all()
            )
            wanted = node.descriptions.wanted_count
            lines.append(f"{host.name} (wants {wanted}): {' '.join(known)}")
        return "\n".join(lines)

    @staticmethod
    def tag_of(data: bytes) -> int:
        """The kind of a packet (``simulations.gossip.host.KINDS``); 0 if it does not say."""
        if len(data) <= _TAG_AT:
            return 0
        if data[1] == 0x1D:  # deflated: only a push-pull is that long
            return 22
        return data[_TAG_AT] & 31

    # --- effects ----------------------------------------------------------------------------

    def do(self, host: Host, effects: list[Effect]) -> None:
        """Do what a core wants, and tell what it has found out."""
        for effect in effects:
            kind = type(effect)
            if kind is SendDatagram:
                if host.blocked_until is None:
                    self._send(host, effect.to, effect.data)  # type: ignore[union-attr]
                else:
                    host.outbox.append(effect)
            elif kind is SendRequest or kind is Broadcast or kind is Watch or kind is Unwatch:
                if host.blocked_until is None:
                    self._act(host, effect)
                else:
                    host.outbox.append(effect)
            else:
                if self.trace is not None:
                    self._note(host, f"finds {effect}")
                for callback in self.found:
                    callback(host, effect)
        self._plan(host)

    def _act(self, host: Host, effect: Effect) -> None:
        match effect:
            case SendDatagram(to=to, data=data):
                self._send(host, to, data)
            case SendRequest():
                self.tcp.request(host, effect)
            case Broadcast(data=data):
                self._broadcast(host, data)
            case Watch(node=node, address=address):
                self.tcp.watch(host, node, address)
            case Unwatch(node=node):
                self.tcp.unwatch(host, node)
            case _:
                raise AssertionError(f"not to be done: {effect}")

    def send(self, host: Host, to: Address, data: bytes) -> None:
        """Send a datagram that no core made: a babbler's."""
        self._send(host, to, data)

    def _send(self, host: Host, to: Address, data: bytes) -> None:
        size = len(data)
        if size > self.largest_datagram_bytes:
            self.largest_datagram_bytes = size
        tag = data[_TAG_AT] & 31 if size > _TAG_AT else 0
        traffic = host.traffic
        traffic.packets_by_tag[tag] += 1
        traffic.bytes_by_tag[tag] += size + UDP_OVERHEAD_BYTES
        target = self._machines.get(to)
        if target is None:
            self.dropped["nobody there"] += 1
            return
        at = self.now
        if host.uplink.port.bits_per_s:
            wait_s = host.uplink.wait_s(size + UDP_OVERHEAD_BYTES, at)
            if wait_s is None:
                self.dropped["uplink full"] += 1
                return
            at += wait_s
        self._cross(host, target, data, at)

    def _cross(self, host: Host, target: Host, data: bytes, at: float) -> None:
        network = self.network
        link = network.link
        if not network.intact:
            if not network.passes(host.number, target.number):
                self.dropped["cut"] += 1
                return
            link = network.between(host.number, target.number)
        if not host.up:
            return
        random = host.path_random
        if link.loss and random.random() < link.loss:
            self.dropped["lost"] += 1
            return
        if len(data) + IP_UDP_BYTES > link.mtu:
            self.dropped["too large"] += 1
            return
        arrives = at + link.latency.draw(random)
        if link.reordering and random.random() < link.reordering:
            arrives += link.reorder_s * random.random()
        source = host.address
        self._sequence += 1
        arguments = (target, host, source, data)
        heapq.heappush(self._heap, (arrives, self._sequence, self._arrive, arguments))
        if link.duplication and random.random() < link.duplication:
            again = at + link.latency.draw(random) + link.latency.draw(random)
            self.schedule(again, self._arrive, *arguments)

    def _broadcast(self, host: Host, data: bytes) -> None:
        tag = data[_TAG_AT] & 31
        host.traffic.packets_by_tag[tag] += 1
        host.traffic.bytes_by_tag[tag] += len(data) + UDP_OVERHEAD_BYTES
        if not host.up:
            return
        link = self.network.link
        at = self.now + link.latency.draw(host.path_random)
        self.schedule(at, self._flood, host, host.address, data)

    def _flood(self, host: Host, source: Address, data: bytes) -> None:
        """A broadcast reaches the whole LAN at one instant, its sender included."""
        network, random = self.network, host.path_random
        for target in self._lans[host.lan]:
            link = network.link
            if target is not host and not network.intact:
                if not network.passes(host.number, target.number):
                    continue
                link = network.between(host.number, target.number)
            if not (link.loss and random.random() < link.loss):
                self._hear(target, source, data)

    def _arrive(self, target: Host, sender: Host, source: Address, data: bytes) -> None:
        if target.downlink.port.bits_per_s:
            wait_s = target.downlink.wait_s(len(data) + UDP_OVERHEAD_BYTES, self.now)
            if wait_s is None:
                self.dropped["downlink full"] += 1
            else:
                self.schedule(self.now + wait_s, self._hear, target, source, data)
        else:
            self._hear(target, source, data)
        if not target.running and target.up and self.icmp:
            self._say_nobody_listens(target, sender)

    def _hear(self, target: Host, source: Address, data: bytes) -> None:
        if not target.running or not target.up:
            self.dropped["no agent"] += 1
        elif target.hampered:
            self.deliver(target, self._receive, target, source, data, size_bytes=len(data))
        else:
            self._receive(target, source, data)

    def _receive(self, host: Host, source: Address, data: bytes) -> None:
        if host.overheard is not None:
            host.overheard.append(data)
        if self.trace is not None:
            kind, mark = self.tag_of(data), digest_mark(data)
            self._note(host, f"hears {source.host} {kind} {len(data)} {mark}")
        now = host.clock.local(self.now)
        self.do(host, host.node.receive_datagram(data, source, now=now))

    def _say_nobody_listens(self, target: Host, sender: Host) -> None:
        last = target.refused_at.get(sender.number)
        if last is not None and self.now - last < ICMP_INTERVAL_S:
            return
        if not self.network.passes(target.number, sender.number):
            return
        target.refused_at[sender.number] = self.now
        at = self.now + self.network.link.latency.draw(target.path_random)
        self.schedule(at, self._hear_refusal, sender, sender.life, target.address)

    def _hear_refusal(self, host: Host, life: int, address: Address) -> None:
        if host.online and host.life == life:
            self.deliver(host, self._take_refusal, host, address)

    def _take_refusal(self, host: Host, address: Address) -> None:
        now = host.clock.local(self.now)
        self.do(host, host.node.refused(address, now=now))

    # --- a process and its inputs -----------------------------------------------------------

    def deliver(self, host: Host, action: Action, *arguments: Any, size_bytes: int = 0) -> None:
        """Hand an input to a process, as soon as it takes inputs."""
        if not host.hampered:
            action(*arguments)
            return
        if host.inbox_bytes + size_bytes > RECEIVE_BUFFER_BYTES:
            self.dropped["receive buffer full"] += 1
            return
        host.inbox.append((size_bytes, action, arguments))
        host.inbox_bytes += size_bytes
        held = host.stopped_until is not None or host.blocked_until is not None
        if len(host.inbox) == 1 and not held:
            self.schedule(max(self.now, host.busy_until), self._work, host, host.life)

    def _work(self, host: Host, life: int) -> None:
        """Take what waits: one input, and at its end the next; all at once where none costs."""
        held = host.stopped_until is not None or host.blocked_until is not None
        if host.life != life or not host.running or held or not host.inbox:
            return
        if self.now < host.busy_until:
            self.schedule(host.busy_until, self._work, host, life)
            return
        while host.inbox and host.running and host.life == life:
            size_bytes, action, arguments = host.inbox.popleft()
            host.inbox_bytes -= size_bytes
            action(*arguments)
            if host.cost_s:
                host.busy_until = self.now + host.cost_s
                self.schedule(host.busy_until, self._work, host, life)
                break
        host.note_hampered()

    def _resume(self, host: Host, life: int) -> None:
        until = host.stopped_until
        if host.life != life or not host.running or until is None or until > self.now:
            return
        host.stopped_until = None
        self._work(host, life)
        host.note_hampered()
        self._wake(host, life)  # what has come is heard first, as in the driver

    def _unblock(self, host: Host, life: int) -> None:
        until = host.blocked_until
        if host.life != life or not host.running or until is None or until > self.now:
            return
        host.blocked_until = None
        outbox, host.outbox = host.outbox, []
        for effect in outbox:
            self._act(host, effect)
        self._work(host, life)
        host.note_hampered()

    def _plan(self, host: Host) -> None:
        """Wake up when the core next has something to do."""
        deadline = host.node.next_deadline()
        if deadline is None or not host.running:
            return
        at = host.clock.virtual(deadline)
        if at < host.wakes_at:
            at = max(at, self.now)
            host.wakes_at = at
            self._sequence += 1
            arguments = (host, host.life)
            heapq.heappush(self._heap, (at, self._sequence, self._wake, arguments))

    def _wake(self, host: Host, life: int) -> None:
        if host.life != life or not host.running or host.stopped_until is not None:
            return
        if self.now < host.busy_until and host.cost_s:
            self.schedule(host.busy_until, self._wake, host, life)
            return
        if self.now >= host.wakes_at:
            host.wakes_at = math.inf
        node = host.node
        deadline = node.next_deadline()
        if deadline is None:
            return
        if host.clock.virtual(deadline) <= self.now:
            now = max(host.clock.local(self.now), deadline)  # however virtual() was rounded
            self.do(host, node.advance(now=now))
        else:
            self._plan(host)

    def _start(self, host: Host, join: Iterable[Host | Address]) -> None:
        """The agent starts, lists what its engine holds, and gossips."""
        self._befall(host, f"starts as {host.id.hex()} generation {host.node.own.generation}")
        node, now = host.node, host.clock.local(self.now)
        listed = {h.image: h for h in node.possession.holdings(host.id)}
        new = [held for image, held in host.engine.items() if listed.get(image) != held]
        known = [host.described[h.image] for h in new if h.image in host.described]
        gone = [image for image in listed if image not in host.engine]
        self._engine_tells(host, new, known, gone)
        self.do(host, node.start(now=now, beacons=self.beacons))
        addresses = [a.address if isinstance(a, Host) else a for a in join]
        if addresses:
            self.do(host, host.node.join(addresses, now=now))

    def _end_process(self, host: Host) -> None:
        host.running = False
        host.stopped_until = host.blocked_until = None
        host.inbox.clear()
        host.inbox_bytes = 0
        host.outbox.clear()
        host.busy_until = 0.0
        host.wakes_at = math.inf
        host.note_hampered()

    def _end_when_heard(self, host: Host, life: int, at_last: float) -> None:
        if host.life != life or not host.running:
            return
        if host.node.farewell_heard or self.now >= at_last:
            self.kill(host)
        else:
            self.schedule(self.now + 0.01, self._end_when_heard, host, life, at_last)

    def _put(
        self, own: Member, lan: str, codec: Codec, disk: Disk, common: CommonPicture | None = None
    ) -> Host:
        """A new machine with an agent that has not started yet."""
        number, clock = len(self.hosts), HostClock()
        host = Host(
            number=number,
            name=own.name,
            address=own.address,
            lan=lan,
            id=own.node,
            codec=codec,
            node=self._core(own, codec, clock, disk, life=1, number=number, common=common),
            path_random=stream(self.seed, "path", number),
            clock=clock,
            disk=disk,
        )
        self.hosts.append(host)
        self._machines[own.address] = host
        self._lans.setdefault(lan, []).append(host)
        return host

    def _new_id(self, number: int) -> NodeId:
        return NodeId(stream(self.seed, "id", number).randbytes(16))

    def _own_member(
        self, node_id: NodeId, name: str, address: Address, clock: HostClock, disk: Disk
    ) -> Member:
        generation = max(disk.generation + 1, int(clock.wall_s(self.now)))
        return Member(node_id, name, address, generation, 0, Status.ALIVE)

    def _core(
        self,
        own: Member,
        codec: Codec,
        clock: HostClock,
        disk: Disk,
        life: int,
        number: int,
        common: CommonPicture | None = None,
    ) -> GossipNode:
        return GossipNode(
            own,
            cluster=CLUSTER,
            config=self.config,
            random=stream(self.seed, "core", number, life),
            now=clock.local(self.now),
            version=max(disk.version + 1, int(clock.wall_s(self.now) * 1000)),
            holdings=disk.holdings,
            remembered=disk.remembered,
            descriptions=disk.descriptions,
            codec=codec,
            common=common,
        )

    def _engine_tells(
        self,
        host: Host,
        holdings: Sequence[Holding],
        descriptions: Sequence[ImageDescription],
        released: Sequence[Digest],
    ) -> None:
        now = host.clock.local(self.now)
        if holdings:
            self.do(host, host.node.hold(holdings, descriptions, now=now))
        if released:
            self.do(host, host.node.release(released, now=now))

    def _befall(self, host: Host, what: str) -> None:
        """Something is done to a host, before its effect."""
        self._note(host, what)
        for callback in self.befell:
            callback(host, what)

    def _note(self, host: Host, what: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.now:.9f} h{host.number} {what}")


def _address(number: int) -> Address:
    return Address(f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}", AGENT_PORT)


class Storm(AssertionError):
    """Packets call forth packets without end."""


class NotReached(AssertionError):
    """What should have come to be did not, within its time."""


def digest_mark(data: bytes) -> str:
    """A few letters that tell one packet from another in a trace."""
    return digest(data.hex()).hex()[:8]
