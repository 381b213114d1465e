"""A cluster of gossip cores on virtual time.

    world = World(seed=1, link=Link(loss=0.02))
    hosts = world.cluster(20)                    # started; they find each other by beacons
    world.hold(hosts[0], "nginx")                # images follow from their names
    world.run(5.0)                               # seconds of virtual time
    world.kill(hosts[3])                         # kill -9: the machine refuses connections
    took_s = world.run_until(world.converged, within_s=30.0)

- ``host.node`` is the real core (``beiran.gossip.node.GossipNode``). Read it at will; feed it only
  through the world.
- ``settled(count)`` gives a cluster that came together long ago, at once: the only way to have
  10,000 nodes. Their tables share the entries that are equal.
- Faults are methods here, in ``simulations.kernel.world``, and of ``world.network``;
  ``simulations.gossip.operations`` has them as operations for scenarios.
- ``world.found.append(callback)``: called with (host, effect) for every fact that a core reports
  (``MemberChanged``, ``HoldingsChanged``, …). ``host.traffic`` counts the packets that a host sent.

``carried=True`` turns the codec off: messages are handed over as they are
(``simulations.gossip.codecs``). It saves a fifth of the time at best. Datagrams' sizes are
estimates then, and a message that the codec would refuse or change passes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Broadcast, Effect, SendDatagram, SendRequest, Unwatch, Watch
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Tables
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription
from simulations.gossip import convergence
from simulations.gossip.codecs import CarriedCodec, MemoCodec
from simulations.gossip.host import CLUSTER, Disk, Host, kind_of
from simulations.gossip.images import description, digest, holding
from simulations.gossip.overlay import CommonState
from simulations.gossip.requests import Requests
from simulations.gossip.watches import Watches
from simulations.kernel import world as kernel
from simulations.kernel.chance import stream
from simulations.kernel.happenings import Killed, Leaving, Moved, PoweredOff, Restarted, Started
from simulations.kernel.host import LAN, address_of
from simulations.kernel.links import Link
from simulations.kernel.processes import MakeProcesses, Processes
from simulations.kernel.streams import Streams
from simulations.kernel.time import HostClock
from simulations.kernel.traffic import TAG_AT, TAG_BITS

LEAVE_POLL_S: Final = 0.01  # how often ``leave`` looks whether the leave broadcast was acknowledged


class World(kernel.World[Host]):
    """One run.

    Args:
      seed: decides every random choice.
      link: between any two hosts.
      config: of every core.
      beacons: whether agents broadcast; otherwise they find each other by ``join`` only.
      icmp: whether a machine without an agent refuses datagrams.
      carried: no codec; see above.
      processes: as in the kernel's world.

    Attributes:
      found: callbacks for the facts that cores report.
      save, rescue: return the disk after a kill and after a power failure
        (``simulations.gossip.stores`` has real databases).
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
        processes: MakeProcesses[Host] = Processes,
    ) -> None:
        super().__init__(seed, link=link or Link(), icmp=icmp, processes=processes)
        self.config: Final = config or GossipConfig()
        self.beacons: Final = beacons
        self.found: Final[list[Callable[[Host, Effect], None]]] = []
        self.save: Callable[[Host], Disk] = Host.remember
        self.rescue: Callable[[Host], Disk] = Host.rescue
        streams = Streams(self.network)
        self._requests: Final = Requests(self, streams)
        self._watches: Final = Watches(self, streams)
        self._codec: Final = CarriedCodec(CLUSTER) if carried else MemoCodec(CLUSTER)

    # --- clusters ---------------------------------------------------------------------------

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
        """Add a machine whose agent starts now; its engine holds ``images`` already."""
        number = len(self.hosts)
        node_id = node_id or self._new_id(number)
        address = self.machines.free_address()
        own = self._own_member(node_id, name or f"h{number}", address, HostClock(), Disk())
        host = self._put(own, lan, codec or self._codec, Disk())
        host.engine = {digest(image): holding(image) for image in images}
        host.described = {digest(image): description(image) for image in images}
        self._start(host, join)
        return host

    def clone(self, host: Host) -> Host:
        """Add a machine with a copy of this one's disk: two agents with one UUID."""
        disk = host.remember() if host.running else host.disk
        name, address = f"h{len(self.hosts)}", self.machines.free_address()
        own = self._own_member(host.id, name, address, HostClock(), disk)
        clone = self._put(own, host.lan, self._codec, disk)
        clone.clone = True
        clone.engine, clone.described = dict(host.engine), dict(host.described)
        self._start(clone, ())
        return clone

    def cluster(self, count: int, *, within_s: float = 60.0) -> list[Host]:
        """Add ``count`` machines and run until they have come together.

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
        """Add a cluster of ``count`` that came together long ago; the world must be empty.

        Args:
          images: that each host holds, by its number.
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
            address = address_of(number)
            own = self._own_member(self._new_id(number), f"h{number}", address, clock, Disk())
            members.append(own)
            versions.append(int(clock.wall_s(self.now) * 1000))
            held.append([holdings[name] for name in names])
        common = CommonState.of(zip(members, versions, held, strict=True), descriptions.values())
        for own in members:
            host = self._put(own, LAN, self._codec, Disk(), common.tables())
            host.engine = {h.image: h for h in held[host.number]}
        for host in self.hosts:
            now = host.clock.local(self.now)
            for effect in host.node.start(now=now, beacons=self.beacons):
                if isinstance(effect, Watch):
                    peer = self.machines.at(effect.address)
                    assert peer is not None
                    self._watches.watch_settled(host, effect.node, peer)
                else:
                    self.do(host, [effect])
            self.processes.plan(host)
        return self.hosts

    def codec(self) -> Codec:
        """Return the codec of this release."""
        return self._codec

    # --- faults of a host -------------------------------------------------------------------

    def kill(self, host: Host) -> None:
        """kill -9: the process is gone; its machine refuses connections."""
        if not host.running:
            return
        self.announce(host, Killed())
        host.disk = self.save(host)
        self.processes.end(host)
        if host.up:
            host.requests.clear()
            self._watches.process_ended(host)

    def power_off(self, host: Host) -> None:
        """Turn the machine off without a word. ``restart`` turns it on again.

        At worst its database loses all of this life except its generation (``Host.rescue``).
        """
        if not host.up:
            return
        self.announce(host, PoweredOff())
        if host.running:
            host.disk = self.rescue(host)
            self.processes.end(host)
        host.up = False
        host.requests.clear()
        self._watches.machine_off(host)

    def restart(
        self,
        host: Host,
        *,
        wiped: bool = False,
        join: Iterable[Host | Address] = (),
        codec: Codec | None = None,
    ) -> Host:
        """Start the next process on a machine; one that runs is killed first.

        Args:
          wiped: without its database. The engine keeps its images.
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
        self.announce(host, Restarted())
        self._start(host, join)
        return host

    def leave(self, host: Host, *, patience_s: float = 1.0) -> None:
        """SIGTERM: broadcast the leave, and end when it is acknowledged or patience is over."""
        if not host.running or host.stopped_until is not None:
            return
        self.announce(host, Leaving())
        host.left_in_life = host.life
        self.do(host, host.node.leave(now=host.clock.local(self.now)))
        self._end_when_acknowledged(host, host.life, self.now + patience_s)

    def move(self, host: Host, address: Address) -> None:
        """Give the machine another address, which its agent notices."""
        if self.machines.at(address) is not None:
            return
        self.announce(host, Moved(address))
        self.machines.move(host, address)
        self._watches.address_changed(host)
        if host.running:
            self.do(host, host.node.move_to(address, now=host.clock.local(self.now)))

    # --- inputs -----------------------------------------------------------------------------

    def hold(self, host: Host, *images: str, tag: str = "latest") -> None:
        """The host's engine has these images now, each under this tag."""
        holdings = [holding(image, tag) for image in images]
        self.hold_these(host, holdings, [description(image) for image in images])

    def hold_these(
        self, host: Host, holdings: Sequence[Holding], descriptions: Sequence[ImageDescription]
    ) -> None:
        """The host's engine has these holdings now."""
        host.engine |= {held.image: held for held in holdings}
        host.described |= {known.image: known for known in descriptions}
        if host.running:
            self.processes.deliver(host, self._list, host, holdings, descriptions, ())

    def release(self, host: Host, *images: str | Digest) -> None:
        """The host's engine no longer has these images."""
        digests = [digest(image) if isinstance(image, str) else image for image in images]
        for image in digests:
            host.engine.pop(image, None)
            host.described.pop(image, None)
        if host.running:
            self.processes.deliver(host, self._list, host, (), (), digests)

    def join(self, host: Host, others: Iterable[Host | Address]) -> None:
        """The host's operator names addresses of other hosts."""
        addresses = [other.address if isinstance(other, Host) else other for other in others]
        self.do(host, host.node.join(addresses, now=host.clock.local(self.now)))

    def send(self, host: Host, to: Address, data: bytes) -> None:
        """Send a datagram that no core made (``simulations.gossip.babble``)."""
        tag = data[TAG_AT] & TAG_BITS if len(data) > TAG_AT else 0
        self.datagrams.send(host, to, data, tag)

    # --- the state --------------------------------------------------------------------------

    def converged(self) -> bool:
        """Whether every online host sees exactly the online ones, and what each holds."""
        return convergence.converged(self.online())

    def differences(self) -> str:
        """Describe what each online host believes, for people."""
        return convergence.describe(self.now, self.online())

    # --- effects ----------------------------------------------------------------------------

    def do(self, host: Host, effects: list[Effect]) -> None:
        """Act on the effects of one input, in their order, and plan the next wake-up."""
        for effect in effects:
            kind = type(effect)
            if kind is SendDatagram:
                if host.blocked_until is None:
                    data = effect.data  # type: ignore[union-attr]
                    tag = data[TAG_AT] & TAG_BITS
                    self.datagrams.send(host, effect.to, data, tag)  # type: ignore[union-attr]
                else:
                    host.outbox.append(effect)
            elif kind is SendRequest or kind is Broadcast or kind is Watch or kind is Unwatch:
                if host.blocked_until is None:
                    self.act(host, effect)
                else:
                    host.outbox.append(effect)
            else:
                if self.trace is not None:
                    self.note(host, f"finds {effect}")
                for callback in self.found:
                    callback(host, effect)
        self.processes.plan(host)

    def act(self, host: Host, effect: Effect) -> None:
        """Act on an effect that leaves the host."""
        match effect:
            case SendDatagram(to=to, data=data):
                self.send(host, to, data)
            case SendRequest():
                self._requests.send(host, effect)
            case Broadcast(data=data):
                self.datagrams.broadcast(host, data, data[TAG_AT] & TAG_BITS)
            case Watch(node=node, address=address):
                self._watches.watch(host, node, address)
            case Unwatch(node=node):
                self._watches.unwatch(host, node)
            case _:
                raise AssertionError(f"it does not leave the host: {effect}")

    def receive(self, host: Host, source: Address, data: bytes) -> None:
        """Feed a datagram to the host's core."""
        if host.overheard is not None:
            host.overheard.append(data)
        if self.trace is not None:
            kind, mark = kind_of(data), digest_mark(data)
            self.note(host, f"hears {source.host} {kind} {len(data)} {mark}")
        now = host.clock.local(self.time.now)
        self.do(host, host.node.receive_datagram(data, source, now=now))

    def refused(self, host: Host, address: Address) -> None:
        """Feed ICMP's "port unreachable" to the host's core."""
        self.do(host, host.node.refused(address, now=host.clock.local(self.now)))

    # --- processes --------------------------------------------------------------------------

    def _start(self, host: Host, join: Iterable[Host | Address]) -> None:
        """The agent starts, lists its engine's images, and gossips."""
        self.announce(host, Started(host.id, host.node.own.generation))
        node, now = host.node, host.clock.local(self.now)
        listed = {h.image: h for h in node.possession.holdings(host.id)}
        new = [held for image, held in host.engine.items() if listed.get(image) != held]
        known = [host.described[h.image] for h in new if h.image in host.described]
        gone = [image for image in listed if image not in host.engine]
        self._list(host, new, known, gone)
        self.do(host, node.start(now=now, beacons=self.beacons))
        others = list(join)
        if others:
            self.join(host, others)

    def _list(
        self,
        host: Host,
        holdings: Sequence[Holding],
        descriptions: Sequence[ImageDescription],
        released: Sequence[Digest],
    ) -> None:
        """Report changes of the engine's list to the core."""
        now = host.clock.local(self.now)
        if holdings:
            self.do(host, host.node.hold(holdings, descriptions, now=now))
        if released:
            self.do(host, host.node.release(released, now=now))

    def _end_when_acknowledged(self, host: Host, life: int, at_last: float) -> None:
        if host.life != life or not host.running:
            return
        if host.node.leave_acknowledged or self.now >= at_last:
            self.kill(host)
        else:
            again = self._end_when_acknowledged
            self.schedule(self.now + LEAVE_POLL_S, again, host, life, at_last)

    def _put(
        self, own: Member, lan: str, codec: Codec, disk: Disk, tables: Tables | None = None
    ) -> Host:
        """Add a machine with an agent that has not started yet."""
        number, clock = len(self.hosts), HostClock()
        host = Host(
            number=number,
            name=own.name,
            address=own.address,
            lan=lan,
            id=own.node,
            codec=codec,
            node=self._core(own, codec, clock, disk, life=1, number=number, tables=tables),
            path_random=stream(self.seed, "path", number),
            clock=clock,
            disk=disk,
        )
        self.machines.add(host)
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
        tables: Tables | None = None,
    ) -> GossipNode:
        if tables is None:
            tables = Tables.restored(
                own,
                max(disk.version + 1, int(clock.wall_s(self.now) * 1000)),
                holdings=disk.holdings,
                remembered=disk.remembered,
                descriptions=disk.descriptions,
            )
        return GossipNode(
            own,
            tables,
            codec=codec,
            config=self.config,
            random=stream(self.seed, "core", number, life),
            now=clock.local(self.now),
        )


def digest_mark(data: bytes) -> str:
    """Return a few letters that identify a packet in a trace."""
    return digest(data.hex()).hex()[:8]
