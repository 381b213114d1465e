"""The invariants of a gossip cluster, checked while it runs and when it has come to rest.

Safety invariants (versions, limits) hold always. Invariants about what members believe of each
other hold between hosts that have been well, in a whole network, for long enough (``wellness``).
Liveness is checked at rest: all views are equal and right, and nothing is left over.
"""

from collections.abc import Sequence
from typing import Final

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.dissemination import UPDATES_MAX
from beiran.gossip.effects import Effect, HoldingsChanged, MemberChanged
from beiran.gossip.membership.failure_detector import RELAYS_MAX
from beiran.gossip.membership.member import Status
from beiran.ids import NodeId
from simulations.gossip.host import Host
from simulations.gossip.wellness import Wellness
from simulations.gossip.world import World
from simulations.kernel import checkers as kernel
from simulations.kernel.chance import stream

LOOK_EVERY_S: Final = 1.0
NEWS_BOUND_S: Final = 45.0
"""By then an update is everywhere, whatever was lost: a push-pull waits 30 s at most."""
SICK_AFTER_S: Final = 25.0
"""Verdicts on a host that was unwell may come this much later. A suspicion runs for 12 to 20 s at
a hundred members, and continues by its own timer."""
WATCHED_PROBES_MAX: Final = 64
RELEASED_LATELY_MAX: Final = 512
SAMPLE: Final = 30
"""Hosts that are checked of a large cluster, drawn anew each time. Effects are checked all."""


class Checkers(kernel.Checkers):
    """All invariants of one run."""

    def __init__(self, world: World) -> None:
        super().__init__(world.time)
        self.wellness = Wellness(world)
        self._world = world
        self._random = stream(world.seed, "checkers")
        self._by_id: dict[NodeId, Host] = {}
        self._versions: dict[tuple[int, int, NodeId], int] = {}
        self._left: dict[tuple[int, NodeId], int] = {}
        self._changed_at: dict[NodeId, float] = {}
        world.found.append(self._found)
        world.every(LOOK_EVERY_S, self.look)

    # --- at every effect --------------------------------------------------------------------

    def _found(self, host: Host, effect: Effect) -> None:
        if isinstance(effect, HoldingsChanged):
            self._version_grows(host, effect)
        elif isinstance(effect, MemberChanged):
            self._verdict_is_right(host, effect)
            self._left_stays(host, effect)

    def _version_grows(self, host: Host, effect: HoldingsChanged) -> None:
        """An owner's version never goes backwards, at the owner or at any other host."""
        key = (host.number, host.life, effect.owner)
        before = self._versions.get(key, 0)
        if effect.version < before:
            text = f"{host.name} had {self._name(effect.owner)} at {before}, now {effect.version}"
            self.fail("version goes backwards", text)
        self._versions[key] = effect.version
        if effect.owner == host.id:
            self._changed_at[effect.owner] = self._world.now

    def _verdict_is_right(self, host: Host, effect: MemberChanged) -> None:
        """A host that is well is not down or left for others that are well."""
        member = effect.member
        target = self._host(member.node)
        if member.status.online or target is None or target is host:
            return
        if member.generation < target.node.own.generation and effect.previous is None:
            return  # an earlier process of it
        if self.wellness.well_for_s(host, target) >= SICK_AFTER_S:
            text = f"{host.name} holds {target.name} for {member.status.name} ({effect.reason})"
            self.fail("well and declared down", text)

    def _left_stays(self, host: Host, effect: MemberChanged) -> None:
        """A host that left and did not start again is not online for a host that knew it left."""
        member = effect.member
        target = self._host(member.node)
        if member.status == Status.LEFT:
            self._left[host.number, member.node] = member.generation
        if effect.previous != Status.LEFT or not member.status.online or target is None:
            return
        if any(other.clone and other.id == target.id for other in self._world.hosts):
            return  # the clone spoke
        if 0 < target.left_in_life < target.life:
            return  # it started again, perhaps within the second that is its generation
        if member.generation <= self._left.get((host.number, member.node), 0):
            self.fail("left and resurrected", f"{host.name} holds {target.name} for online again")

    # --- every second -----------------------------------------------------------------------

    def look(self) -> None:
        """Check the invariants that need no check at every effect."""
        self._by_id = {host.id: host for host in self._world.hosts if not host.clone}
        self.wellness.look()
        online = self._world.online()
        images = sum(len(host.engine) for host in self._world.hosts)
        for host in self._some(online):
            self._within_limits(host, images)
        now = self._world.now
        for owner in self._some(online):
            if now - self._changed_at.get(owner.id, 0.0) < NEWS_BOUND_S:
                continue
            for host in self._some(online):
                if self.wellness.well_for_s(host, owner) >= NEWS_BOUND_S:
                    self._lists_the_engine(host, owner)
        largest_bytes = self._world.datagrams.largest_bytes
        if largest_bytes > DATAGRAM_BYTES_MAX:
            self.fail("too large a datagram", f"a datagram of {largest_bytes} bytes")

    def _some(self, hosts: list[Host]) -> list[Host]:
        """Return all of them, or a random sample of many."""
        return hosts if len(hosts) <= SAMPLE else self._random.sample(hosts, SAMPLE)

    def _lists_the_engine(self, host: Host, owner: Host) -> None:
        """A host lists of an owner exactly the images that the owner's engine holds."""
        if host.held(owner.id) != owner.engine:
            text = f"{host.name} lists other images of {owner.name} than it holds"
            self.fail("listed and not held", text)

    def _within_limits(self, host: Host, images: int) -> None:
        """Queues and tables stay within their limits."""
        node = host.node
        sizes, members = node.sizes, len(node.members)
        limits = {
            "updates": UPDATES_MAX,
            "suspicions": members,
            "probes": WATCHED_PROBES_MAX + members,
            "relays": RELAYS_MAX,
            "exchanges": 8 + len(self._world.hosts),
            "wanted": images + RELEASED_LATELY_MAX,
            "timers": 64 + RELAYS_MAX + 6 * members,
            "heard": members,
            "tombstones": self._world.config.tombstones_max,
        }
        for name, limit in limits.items():
            if sizes[name] > limit:
                self.fail("too much kept", f"{host.name} keeps {sizes[name]} {name} of {limit}")

    # --- at rest ----------------------------------------------------------------------------

    def at_rest(self) -> None:
        """All views of the online hosts are equal and right, and nothing is left over."""
        world = self._world
        online = [host for host in world.online() if not host.clone]
        ids = sorted(host.id for host in online)
        hashes = {host.node.members.state_hash: host.name for host in online}
        if len(hashes) > 1:
            self.fail("views differ", f"{', '.join(hashes.values())} have different state hashes")
        for host in self._some(online):
            seen = sorted(m.node for m in host.node.members.all() if m.status.online)
            if seen != ids:
                names = self._names(seen)
                self.fail("views differ", f"{host.name} sees {names}, not {self._names(ids)}")
            for owner in self._some(online):
                self._lists_the_engine(host, owner)
            self._describes_what_is_held(host)
            if host.node.sizes["suspicions"]:
                self.fail("suspicions at rest", f"{host.name} has a suspicion that does not end")

    def _describes_what_is_held(self, host: Host) -> None:
        """A host has descriptions of exactly the images that are known to be held."""
        node = host.node
        for owner in self._some(self._world.online()):
            for image in owner.engine:
                if node.descriptions.get(image) is None:
                    self.fail("not described", f"{host.name} does not know what {image.hex()} is")
        for image in node.descriptions.images():
            if not node.possession.is_held(image):
                text = f"{host.name} describes {image.hex()}, which no host holds"
                self.fail("described and not held", text)

    # --- names ------------------------------------------------------------------------------

    def _host(self, node: NodeId) -> Host | None:
        if node not in self._by_id:
            self._by_id = {host.id: host for host in self._world.hosts if not host.clone}
        return self._by_id.get(node)

    def _name(self, node: NodeId) -> str:
        host = self._host(node)
        return host.name if host is not None else node.hex()

    def _names(self, nodes: Sequence[NodeId]) -> str:
        return " ".join(self._name(node) for node in nodes) or "no host"
