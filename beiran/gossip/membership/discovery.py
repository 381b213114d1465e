"""Finding peers: beacons on the LAN, addresses we were told, members of an earlier life, the lost.

A beacon tells everybody on a LAN who is there and what its picture's hash is. All agents of a LAN
together send about one every two seconds: each waits in proportion to the number of members. If a
beacon's picture is not ours, the three members next to its sender on the ring get in touch with it,
and the others, who heard it too, stay silent.
"""

from collections.abc import Iterable
from typing import Final

from beiran.gossip.context import Context
from beiran.gossip.effects import Broadcast
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.messages import Alive, Beacon
from beiran.gossip.possession.push_pull import AntiEntropy
from beiran.gossip.timers import BeaconDue, ReconnectDue, SeedsDue
from beiran.ids import NodeId

RESPONDERS: Final = 3


class Discovery:
    """How this node finds others, and is found."""

    def __init__(
        self, context: Context, anti_entropy: AntiEntropy, detector: FailureDetector
    ) -> None:
        self._context = context
        self._anti_entropy = anti_entropy
        self._detector = detector
        self._seeds: list[Address] = []
        self._answered: dict[Address, NodeId] = {}
        self._remembered: dict[NodeId, Member] = {}
        self._burst = list(context.config.beacon_burst_s)
        self.beacons = True

    def remember(self, members: Iterable[Member]) -> None:
        """Members of an earlier life, of which nothing is known to be true now."""
        self._remembered = {member.node: member for member in members}

    def recall(self, node: NodeId) -> Member | None:
        """A remembered member shows itself: take it off the list."""
        return self._remembered.pop(node, None)

    @property
    def remembered(self) -> dict[NodeId, Member]:
        """Those that have not shown themselves yet."""
        return self._remembered

    def start(self) -> None:
        """Begin to call and to listen."""
        context = self._context
        if self.beacons:
            context.set_timer(BeaconDue(), self._burst.pop(0))
        context.set_timer(ReconnectDue(), context.config.lost_interval_s)
        remembered = list(self._remembered.values())
        some = min(context.config.seeds_at_once, len(remembered))
        for member in context.random.sample(remembered, some):
            self._detector.ping(member)

    def go_on(self) -> None:
        """Begin as one of a cluster at rest: no burst of beacons, and not all at one time."""
        context = self._context
        self._burst.clear()
        online = max(1, context.members.online_count)
        if self.beacons:
            interval_s = context.config.beacon_lan_interval_s * online
            context.set_timer(BeaconDue(), context.random.uniform(0.0, interval_s))
        wait_s = context.config.lost_interval_s * online
        context.set_timer(ReconnectDue(), context.random.uniform(0.0, wait_s))

    def join(self, addresses: Iterable[Address]) -> None:
        """Addresses at which there may be agents: tried now, and again until one answers."""
        own = self._context.members.own.address
        new = [a for a in dict.fromkeys(addresses) if a != own and a not in self._seeds]
        self._seeds.extend(new)
        if new:
            self._context.set_timer(SeedsDue(), 0.0)

    def answered(self, address: Address, node: NodeId) -> None:
        """Who it is that answers at an address; it may call itself by another, or be us."""
        if address in self._seeds:
            self._answered[address] = node

    def try_seeds(self) -> None:
        """Get in touch with some addresses where nobody we know is online."""
        context = self._context
        context.set_timer(SeedsDue(), context.config.seed_interval_s)  # as long as we have any
        online = [member for member in context.members.all() if member.status.online]
        addresses, nodes = {m.address for m in online}, {m.node for m in online}
        unmet = [
            address
            for address in self._seeds
            if address not in addresses and self._answered.get(address) not in nodes
        ]
        some = min(context.config.seeds_at_once, len(unmet))
        for address in context.random.sample(unmet, some):
            self._anti_entropy.begin(address, None)

    def try_lost(self) -> None:
        """Ping one of those who are down: a healed partition, or a host that came back.

        All online members together make one attempt every ``lost_interval_s``.
        """
        context = self._context
        members = context.members
        wait = context.config.lost_interval_s * max(1, members.online_count)
        context.set_timer(ReconnectDue(), wait * context.random.uniform(0.5, 1.5))
        lost = [
            member
            for node in members.offline()
            if (member := members.get(node)) and member.status == Status.DOWN
        ]
        lost.extend(self._remembered.values())
        if lost:
            self._detector.ping(context.random.choice(lost))

    def call(self) -> None:
        """Send a beacon, and plan the next."""
        context = self._context
        members = context.members
        beacon = Beacon(Alive.of(members.own), members.picture)
        context.counters["beacons_sent"] += 1
        context.emit(Broadcast(context.codec.encode_datagram(beacon)))
        if self._burst:
            wait = self._burst.pop(0)
        else:
            wait = context.config.beacon_lan_interval_s * max(1, members.online_count)
        context.set_timer(BeaconDue(), wait * context.random.uniform(0.75, 1.25))

    def responds_to(self, node: NodeId) -> bool:
        """Whether it is ours to get in touch with the sender of a beacon."""
        members = self._context.members
        return members.own.node in members.neighbours(node, RESPONDERS, step=-1)
