"""Finding peers: beacons on the LAN, addresses from the operator, members of an earlier life, and
members that are down.

A beacon shows to all of a LAN its sender and the hash of what the sender knows. All agents of a
LAN together send about one every two seconds: each waits in proportion to the number of members.
Where a beacon's hash is not that of the receivers, the three members next to its sender on the
ring get in touch with it; the others, which heard it too, stay silent.
"""

from collections.abc import Iterable
from typing import Final

from beiran.gossip.context import Context
from beiran.gossip.effects import Broadcast
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.member import Address, Status
from beiran.gossip.messages import Alive, Beacon
from beiran.gossip.possession.push_pull import PushPull
from beiran.gossip.timers import BeaconDue, ReconnectDue, SeedsDue
from beiran.ids import NodeId

RESPONDERS: Final = 3  # to a beacon: one may be wrong about the ring, and one datagram be lost


class Discovery:
    """How this node finds others, and is found."""

    def __init__(self, context: Context, push_pull: PushPull, detector: FailureDetector) -> None:
        self._context = context
        self._push_pull = push_pull
        self._detector = detector
        self._seeds: list[Address] = []
        self._answered: dict[Address, NodeId] = {}
        self._burst = list(context.config.beacon_burst_s)

    def start(self, *, beacons: bool) -> None:
        """Begin to send beacons, if ``beacons``, and to look for members that are lost.

        A core that already has others online when it begins sends no burst, and takes its first
        turns at random times of a period: in a simulation thousands begin so at one moment.
        """
        context, config = self._context, self._context.config
        online = context.members.online_count
        if online > 1:
            self._burst.clear()
            if beacons:
                period_s = config.beacon_lan_interval_s * online
                context.set_timer(BeaconDue(), context.random.uniform(0.0, period_s))
            lost_s = context.random.uniform(0.0, config.lost_interval_s * online)
        else:
            if beacons:
                context.set_timer(BeaconDue(), self._burst.pop(0))
            lost_s = config.lost_interval_s
        context.set_timer(ReconnectDue(), lost_s)
        remembered = list(context.members.remembered.values())
        some = min(config.seeds_at_once, len(remembered))
        for member in context.random.sample(remembered, some):
            self._detector.ping(member)

    # --- addresses --------------------------------------------------------------------------

    def join(self, addresses: Iterable[Address]) -> None:
        """Try addresses at which there may be agents now, and again until one answers."""
        own = self._context.members.own.address
        new = [a for a in dict.fromkeys(addresses) if a != own and a not in self._seeds]
        self._seeds.extend(new)
        if new:
            self._context.set_timer(SeedsDue(), 0.0)

    def on_answer(self, address: Address, node: NodeId) -> None:
        """Note which node answers at an address: it may announce another, or be this node."""
        if address in self._seeds:
            self._answered[address] = node

    def try_seeds(self) -> None:
        """Begin a push-pull with some addresses at which no known member is online."""
        context = self._context
        context.set_timer(SeedsDue(), context.config.seed_interval_s)
        online = [member for member in context.members.all() if member.status.online]
        addresses, nodes = {m.address for m in online}, {m.node for m in online}
        unmet = [
            address
            for address in self._seeds
            if address not in addresses and self._answered.get(address) not in nodes
        ]
        some = min(context.config.seeds_at_once, len(unmet))
        for address in context.random.sample(unmet, some):
            self._push_pull.begin(address, None)

    def try_lost(self) -> None:
        """Ping one member that is down: a partition may have healed, or a host come back.

        All online members together make one attempt every ``lost_interval_s``.
        """
        context = self._context
        members = context.members
        wait_s = context.config.lost_interval_s * max(1, members.online_count)
        context.set_timer(ReconnectDue(), wait_s * context.random.uniform(0.5, 1.5))
        lost = [
            member
            for node in members.offline()
            if (member := members.get(node)) and member.status == Status.DOWN
        ]
        lost.extend(members.remembered.values())
        if lost:
            self._detector.ping(context.random.choice(lost))

    # --- beacons ----------------------------------------------------------------------------

    def send_beacon(self) -> None:
        """Broadcast a beacon, and plan the next."""
        context = self._context
        members = context.members
        beacon = Beacon(Alive.of(members.own), members.state_hash)
        context.counters["beacons_sent"] += 1
        context.emit(Broadcast(context.codec.encode_datagram(beacon)))
        if self._burst:
            wait_s = self._burst.pop(0)
        else:
            wait_s = context.config.beacon_lan_interval_s * max(1, members.online_count)
        context.set_timer(BeaconDue(), wait_s * context.random.uniform(0.75, 1.25))

    def on_beacon(self, beacon: Beacon) -> None:
        """Get in touch with the sender of a beacon, if that is this node's turn.

        Call it once the announcement in the beacon is merged.
        """
        context = self._context
        if beacon.sender == context.members.own.node:
            return
        context.counters["beacons_received"] += 1
        member = context.members.get(beacon.sender)
        if member is None or context.leaving or not self._is_responder(beacon.sender):
            return
        if not member.status.online:  # it does not know that it was declared down
            self._push_pull.begin_soon_with(member)
        elif beacon.state_hash != context.members.state_hash:
            # It may be new here, and leave again before a push-pull brings it our address.
            hello = context.codec.encode_news(Alive.of(context.members.own))
            self._detector.ping_with(member, hello)

    def _is_responder(self, node: NodeId) -> bool:
        members = self._context.members
        return members.own.node in members.neighbours(node, RESPONDERS, step=-1)
