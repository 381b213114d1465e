"""What must be true of every run, looked at while it runs and when it has come to rest.

A host is *well* from when it runs, is on, neither stopped, blocked nor slow, and nobody else uses
its UUID; the network is *whole* from when it is neither split nor cut. Whatever disturbs a host or
the network starts that time anew (``Wellness``). Invariants about what members believe of each
other hold between hosts that have been well, in a whole network, for long enough; the others hold
always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.dissemination import RUMOURS_MAX
from beiran.gossip.effects import Effect, HoldingsChanged, MemberChanged
from beiran.gossip.membership.failure_detector import RELAYS_MAX
from beiran.gossip.membership.member import Status
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.chance import stream

LOOK_EVERY_S: Final = 1.0
NEWS_BOUND_S: Final = 45.0
"""News is everywhere by then, whatever was lost: a push-pull that waits longest waits 30 s."""
SICK_AFTER_S: Final = 25.0
"""What others concluded while a host was unwell may come out this much later: suspicions run for
12 s at least and 20 at most at a hundred members, and go on by their own timers."""
WATCHED_PROBES_MAX: Final = 64
RELEASED_LATELY_MAX: Final = 512
SAMPLE: Final = 30
"""Hosts looked at of a large cluster, other ones each time; effects are looked at all."""


@dataclass(frozen=True)
class Violation:
    """An invariant that did not hold.

    Attributes:
      invariant: which; shrinking keeps it.
    """

    invariant: str
    at_s: float
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at_s:.3f} s: {self.text}"


class Wellness:
    """Since when each host is well, and the network whole."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._well_since: dict[int, float] = {}
        self._lives: dict[int, int] = {}
        self._whole_since: float | None = world.now

    def look(self) -> None:
        """Take note of how things are now; called after every operation and every second."""
        world = self._world
        doubled = {host.id for host in world.hosts if host.clone and host.online}
        for host in world.hosts:
            well = host.online and not host.hampered and host.id not in doubled
            if not well or self._lives.get(host.number) != host.life:
                self._lives[host.number] = host.life
                self._well_since.pop(host.number, None)
            if well:
                self._well_since.setdefault(host.number, world.now)
        if not world.network.intact:
            self._whole_since = None
        elif self._whole_since is None:
            self._whole_since = world.now

    def unsettle(self, host: Host) -> None:
        """Something befell a host that is over by now."""
        self._well_since.pop(host.number, None)

    def break_up(self) -> None:
        """The network was not whole a moment ago."""
        self._whole_since = None

    def well_for_s(self, *hosts: Host) -> float:
        """How long all of these have been well, in a whole network."""
        now = self._world.now
        if self._whole_since is None:
            return 0.0
        since = self._whole_since
        for host in hosts:
            if not host.online or host.hampered or self._lives.get(host.number) != host.life:
                return 0.0
            since = max(since, self._well_since.get(host.number, now))
        return now - since


class Checkers:
    """All invariants of one run. The first violation ends up in ``violation``, and stays."""

    def __init__(self, world: World) -> None:
        self.violation: Violation | None = None
        self.wellness = Wellness(world)
        self._world = world
        self._random = stream(world.seed, "checkers")
        self._by_id: dict[NodeId, Host] = {}
        self._versions: dict[tuple[int, int, NodeId], int] = {}
        self._left: dict[tuple[int, NodeId], int] = {}
        self._changed_at: dict[NodeId, float] = {}
        world.found.append(self._found)
        world.every(LOOK_EVERY_S, self.look)

    def fail(self, invariant: str, text: str) -> None:
        """Note a violation, if it is the first."""
        if self.violation is None:
            self.violation = Violation(invariant, self._world.now, text)

    # --- at every step ----------------------------------------------------------------------

    def _found(self, host: Host, effect: Effect) -> None:
        if isinstance(effect, HoldingsChanged):
            self._version_grows(host, effect)
        elif isinstance(effect, MemberChanged):
            self._verdict_is_right(host, effect)
            self._left_stays(host, effect)

    def _version_grows(self, host: Host, effect: HoldingsChanged) -> None:
        """An owner's version never goes backwards, at the owner or at anybody else."""
        key = (host.number, host.life, effect.owner)
        before = self._versions.get(key, 0)
        if effect.version < before:
            text = f"{host.name} had {self._name(effect.owner)} at {before}, now {effect.version}"
            self.fail("version goes backwards", text)
        self._versions[key] = effect.version
        if effect.owner == host.id:
            self._changed_at[effect.owner] = self._world.now

    def _verdict_is_right(self, host: Host, effect: MemberChanged) -> None:
        """Who is well is not down, or left, for others who are well."""
        member = effect.member
        target = self._host(member.node)
        if member.status.online or target is None or target is host:
            return
        life = target.node.own.generation
        if member.generation < life and effect.previous is None:
            return  # an old life of it
        if self.wellness.well_for_s(host, target) >= SICK_AFTER_S:
            text = f"{host.name} holds {target.name} for {member.status.name} ({effect.reason})"
            self.fail("well and declared down", text)

    def _left_stays(self, host: Host, effect: MemberChanged) -> None:
        """Who has left and not come back is not online for anybody who knew."""
        member = effect.member
        target = self._host(member.node)
        if member.status == Status.LEFT:
            self._left[host.number, member.node] = member.generation
        if effect.previous != Status.LEFT or not member.status.online or target is None:
            return
        if any(other.clone and other.id == target.id for other in self._world.hosts):
            return  # it was another that spoke
        if 0 < target.left_in_life < target.life:
            return  # it has started again, perhaps within the second that is its generation
        if member.generation <= self._left.get((host.number, member.node), 0):
            self.fail("left and resurrected", f"{host.name} holds {target.name} for online again")

    # --- every second -----------------------------------------------------------------------

    def look(self) -> None:
        """What need not be looked at after each step."""
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
                    self._lists_what_is_held(host, owner)
        if self._world.largest_datagram_bytes > DATAGRAM_BYTES_MAX:
            text = f"a datagram of {self._world.largest_datagram_bytes} bytes"
            self.fail("too large a datagram", text)

    def _some(self, hosts: list[Host]) -> list[Host]:
        """All of them, or where there are many a few at random."""
        return hosts if len(hosts) <= SAMPLE else self._random.sample(hosts, SAMPLE)

    def _lists_what_is_held(self, host: Host, owner: Host) -> None:
        """Nobody lists what the owner does not hold, nor lacks what it holds."""
        if held(host, owner.id) != owner.engine:
            text = f"{host.name} lists other images of {owner.name} than it holds"
            self.fail("listed and not held", text)

    def _within_limits(self, host: Host, images: int) -> None:
        """Queues and tables stay within their limits."""
        node = host.node
        sizes, members = node.sizes, len(node.members)
        limits = {
            "rumours": RUMOURS_MAX,
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
        """All live views are equal and right, and nothing is left over."""
        world = self._world
        online = [host for host in world.online() if not host.clone]
        ids = sorted(host.id for host in online)
        pictures = {host.node.members.picture: host.name for host in online}
        if len(pictures) > 1:
            self.fail("views differ", f"{', '.join(pictures.values())} have different pictures")
        for host in self._some(online):
            seen = sorted(m.node for m in host.node.members.all() if m.status.online)
            if seen != ids:
                names = self._names(seen)
                self.fail("views differ", f"{host.name} sees {names}, not {self._names(ids)}")
            for owner in self._some(online):
                self._lists_what_is_held(host, owner)
            self._describes_what_is_held(host)
            if host.node.sizes["suspicions"]:
                self.fail("suspicions at rest", f"{host.name} suspects somebody for ever")

    def _describes_what_is_held(self, host: Host) -> None:
        """Whatever anybody online holds is described; what nobody is known to hold is not."""
        node = host.node
        for owner in self._some(self._world.online()):
            for image in owner.engine:
                if node.descriptions.get(image) is None:
                    self.fail("not described", f"{host.name} does not know what {image.hex()} is")
        for image in node.descriptions.images():
            if not node.possession.is_held(image):
                text = f"{host.name} describes {image.hex()}, which nobody holds"
                self.fail("described for nobody", text)

    # --- inside -----------------------------------------------------------------------------

    def _host(self, node: NodeId) -> Host | None:
        if node not in self._by_id:
            self._by_id = {host.id: host for host in self._world.hosts if not host.clone}
        return self._by_id.get(node)

    def _name(self, node: NodeId) -> str:
        host = self._host(node)
        return host.name if host is not None else node.hex()

    def _names(self, nodes: Sequence[NodeId]) -> str:
        return " ".join(self._name(node) for node in nodes) or "nobody"


def held(host: Host, owner: NodeId) -> dict[Digest, Holding]:
    """What ``host`` believes that ``owner`` holds."""
    return {holding.image: holding for holding in host.node.possession.holdings(owner)}
