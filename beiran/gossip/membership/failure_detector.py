"""The failure detector: SWIM's probe cycle with Lifeguard's local health.

The theory. In each probe interval a node pings one member: by turns its successor on the ring and
the next of a shuffled round. So each member is pinged at least every other second by its
predecessor, whatever chance does, and by all others in turn (SWIM §4.3). A probe goes through

    ping -> (no ack within ping_retry_s)     a second ping, for the first may be lost
         -> (none within probe_timeout_s)    ``PingReq`` to some other members, and TCP
         -> (none at the interval's end, or all those members sent a nack)  the target is suspected

and ends early with the first ack. The intervals are stretched by ``Awareness.health_factor``. A
member that was asked and has no ack either sends a nack: it shows that this node still receives.
Nacks that do not come count against this node's own health (Lifeguard §IV-A).

The detector returns the members that it could not reach; what follows from that is decided by
``suspicion_protocol``.
"""

from typing import Final

from msgspec import Struct

from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.membership.awareness import Awareness
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.suspicion import Suspicions
from beiran.gossip.messages import Ack, Nack, NewsItem, Ping, PingReq, StreamPing
from beiran.gossip.requests import ProbeRequest
from beiran.gossip.timers import (
    ExtraProbeEnds,
    IndirectProbeDue,
    NackDue,
    PingRetryDue,
    ProbeDue,
)
from beiran.ids import NodeId

NACK_SHARE: Final = 0.8  # of the probe timeout; memberlist sends its nacks then
RELAYS_MAX: Final = 256  # a bound on memory: each is one ping-req of the last seconds
SUCCESSORS_MAX: Final = 4
"""How far along the ring the successor's probe looks for a member that is not suspected already.
Behind a whole rack that failed, the round of all members goes on instead."""
PROBE_NUMBERS: Final = 2**32  # a probe's number wraps: the wire has 32 bits
ROUNDS_CONFIRMED: Final = 2  # an address that answered in the last two rounds needs no ARP


class Probe(Struct):
    """One probe cycle of one member.

    Attributes:
      in_round: part of the round; otherwise an extra one, to confirm or clear a suspicion.
      expected_nacks: members that will send a nack if they get no ack either.
    """

    number: int
    target: NodeId
    in_round: bool
    expected_nacks: int = 0
    nacks: int = 0


class Relay(Struct, frozen=True):
    """A probe made for another member: that member's address, and its own number for it."""

    requester: Address
    number: int
    target: NodeId


class FailureDetector:
    """Probes, and what their outcomes say about the others and about this node."""

    def __init__(
        self,
        context: Context,
        dissemination: Dissemination,
        awareness: Awareness,
        suspicions: Suspicions,
    ) -> None:
        self._context = context
        self._dissemination = dissemination
        self._awareness = awareness
        self._suspicions = suspicions
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._number = context.random.randrange(PROBE_NUMBERS)
        self._answered_at: dict[NodeId, float] = {}
        self._successor_next = False

    @property
    def probe_count(self) -> int:
        """How many probes are under way."""
        return len(self._probes)

    @property
    def relay_count(self) -> int:
        """How many probes for others are remembered; at most ``RELAYS_MAX``."""
        return len(self._relays)

    # --- the round --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the rounds, at a time that differs from node to node."""
        interval = self._context.config.probe_interval_s
        self._context.set_timer(ProbeDue(), interval * self._context.random.uniform(0.3, 1.0))

    def end_round(self) -> list[NodeId]:
        """The probe interval is over. Returns the member whose probe has failed in it, if any."""
        ending = [number for number, probe in self._probes.items() if probe.in_round]
        return [node for number in ending for node in self._conclude(number)]

    def begin_round(self) -> None:
        """Probe the next member of the round."""
        context = self._context
        interval_s = context.config.probe_interval_s * self._awareness.health_factor
        context.set_timer(ProbeDue(), interval_s)
        target = self._next_target()
        if target is not None:
            self._start_probe(target, in_round=True)

    def _next_target(self) -> NodeId | None:
        """By turns the nearest successor that is alive, and the next of the round."""
        members, config = self._context.members, self._context.config
        self._successor_next = not self._successor_next
        if config.probe_successor and self._successor_next:
            for node in members.neighbours(members.own.node, SUCCESSORS_MAX, step=1):
                member = members.get(node)
                if member is not None and member.status == Status.ALIVE:
                    return node
        return members.next_to_probe()

    # --- a probe ----------------------------------------------------------------------------

    def probe_now(self, node: NodeId) -> None:
        """Probe a member out of turn, unless a probe of it is under way."""
        if any(probe.target == node for probe in self._probes.values()):
            return
        probe = self._start_probe(node, in_round=False)
        interval_s = self._context.config.probe_interval_s * self._awareness.health_factor
        self._context.set_timer(ExtraProbeEnds(probe.number), interval_s)

    def _start_probe(self, target: NodeId, *, in_round: bool) -> Probe:
        context = self._context
        member = context.members.get(target)
        assert member is not None, "only members are probed"
        probe = Probe(self.ping(member), target, in_round)
        self._probes[probe.number] = probe
        if context.config.ping_retry_s:
            context.set_timer(PingRetryDue(probe.number), context.config.ping_retry_s)
        timeout_s = context.config.probe_timeout_s * self._awareness.health_factor
        context.set_timer(IndirectProbeDue(probe.number), timeout_s)
        return probe

    def retry(self, number: int) -> None:
        """No ack has come soon: the ping may be lost, send a second one."""
        probe = self._probes.get(number)
        member = self._context.members.get(probe.target) if probe else None
        if member is not None:
            self._context.lost_at = self._context.now
            self._send_ping(member, number)

    def probe_indirectly(self, number: int) -> None:
        """No ack within the probe timeout: ping through other members, and by TCP. SWIM §3.1."""
        context = self._context
        probe = self._probes.get(number)
        member = context.members.get(probe.target) if probe else None
        if probe is None or member is None:
            return
        own = context.members.own.node
        for node in context.members.some(
            context.config.indirect_probes, without=frozenset([probe.target])
        ):
            helper = context.members.get(node)
            if helper is None:
                continue
            probe.expected_nacks += 1
            host, port = member.address.packed_host, member.address.port
            news = self._dissemination.piggyback(first=self._suspicions.news_for(node))
            context.send(helper.address, PingReq(number, own, probe.target, host, port, news))
        if context.config.stream_probe:
            timeout_s = context.config.probe_interval_s - context.config.probe_timeout_s
            self.stream_probe(member, number, timeout_s=timeout_s * self._awareness.health_factor)

    def end_extra(self, number: int) -> list[NodeId]:
        """The interval of an extra probe is over. Returns its target, if the probe has failed."""
        return self._conclude(number)

    def on_nack(self, nack: Nack) -> list[NodeId]:
        """A member that was asked has no ack either. Returns the target, if that settles it."""
        probe = self._probes.get(nack.probe)
        if probe is None:
            return []
        probe.nacks += 1
        config, well = self._context.config, not self._awareness.local_health
        if probe.nacks == probe.expected_nacks and config.all_nacks_conclude and well:
            return self._conclude(probe.number)
        return []

    def on_ack(self, ack: Ack, source: Address) -> None:
        """An ack has come: to a probe of this node, or to one that it makes for another member."""
        member = self._context.members.get(ack.sender)
        if member is not None and member.status.online and member.address == source:
            self._answered_at[ack.sender] = self._context.now  # by no relay
        relay = self._relays.pop(ack.probe, None)
        if relay is not None and relay.target == ack.sender:
            self._context.cancel_timer(NackDue(ack.probe))
            relayed = Ack(relay.number, ack.sender, ack.state_hash)
            self._context.send(relay.requester, relayed)
        self._succeed(ack.probe, ack.sender)

    def on_stream_ack(self, request: ProbeRequest, sender: NodeId) -> None:
        """A reply over TCP has come."""
        if request.probe is not None:
            self._succeed(request.probe, sender)

    def give_up(self, node: NodeId) -> None:
        """End all probes of a member that is offline now, without an outcome."""
        for number in [n for n, probe in self._probes.items() if probe.target == node]:
            self._end(self._probes[number])
        self._answered_at.pop(node, None)

    def _succeed(self, number: int, sender: NodeId) -> None:
        probe = self._probes.get(number)
        if probe is not None and probe.target == sender:
            self._end(probe)
            if probe.in_round:
                self._awareness.worsen(-1)

    def _conclude(self, number: int) -> list[NodeId]:
        """End a probe that got no ack. Returns its target, if it still is a member."""
        probe = self._probes.get(number)
        if probe is None:
            return []
        self._end(probe)
        if self._context.members.get(probe.target) is None:
            return []
        missed = probe.expected_nacks - probe.nacks
        self._awareness.worsen(missed if probe.expected_nacks and self._context.config.nacks else 1)
        self._context.counters["probes_failed"] += 1
        return [probe.target]

    def _end(self, probe: Probe) -> None:
        del self._probes[probe.number]
        for timer in (PingRetryDue, IndirectProbeDue, ExtraProbeEnds):
            self._context.cancel_timer(timer(probe.number))

    # --- pings ------------------------------------------------------------------------------

    def ping(self, member: Member) -> int:
        """Send one ping. Returns its number."""
        self._number = (self._number + 1) % PROBE_NUMBERS
        self._send_ping(member, self._number)
        return self._number

    def ping_with(self, member: Member, item: NewsItem) -> None:
        """Ping a member to bring it one piece of news: its ack shows that it has it."""
        self._number = (self._number + 1) % PROBE_NUMBERS
        members = self._context.members
        message = Ping(self._number, members.own.node, members.state_hash, (item,))
        self._context.send(member.address, message)

    def stream_probe(self, member: Member, number: int | None, *, timeout_s: float) -> None:
        """Ask a member over TCP. ``number``: the probe that this helps, if any."""
        message = StreamPing(self._context.members.own.node)
        purpose = ProbeRequest(number, member.node)
        self._context.request(member.address, message, purpose, timeout_s=timeout_s)

    def on_ping(self, ping: Ping, source: Address, *, only: NewsItem | None) -> None:
        """Answer a ping with an ack and news.

        Args:
          only: this node's leave broadcast, once there is one: nothing else matters then.
        """
        context = self._context
        member = context.members.get(ping.sender)
        news: tuple[NewsItem, ...] = ()
        if only is not None:
            news = (only,)
        elif member is not None and member.status.online:  # a stranger's source may be forged
            first = self._suspicions.news_for(ping.sender)
            news = self._dissemination.piggyback(state_hash=ping.state_hash, first=first)
        ack = Ack(ping.probe, context.members.own.node, context.members.state_hash, news)
        context.send(source, ack, confirmed=self._answered_lately(ping.sender))

    def on_ping_req(self, request: PingReq, requester: Address) -> None:
        """Ping a target for another member."""
        context, target = self._context, request.address
        if len(self._relays) >= RELAYS_MAX:
            self._relays.pop(next(iter(self._relays)))
        self._number = (self._number + 1) % PROBE_NUMBERS
        self._relays[self._number] = Relay(requester, request.probe, request.target)
        known = context.members.get(request.target)
        news: tuple[NewsItem, ...] = ()
        if known is not None and known.address == target:  # else the requester chose the address
            news = self._dissemination.piggyback(first=self._suspicions.news_for(request.target))
        members = context.members
        context.send(target, Ping(self._number, members.own.node, members.state_hash, news))
        context.set_timer(NackDue(self._number), NACK_SHARE * context.config.probe_timeout_s)

    def send_nack(self, number: int) -> None:
        """The target of a relayed ping has not answered this node either. Lifeguard §IV-A."""
        relay = self._relays.get(number)
        if relay is not None and self._context.config.nacks:
            own = self._context.members.own.node
            self._context.send(relay.requester, Nack(relay.number, own))

    def _send_ping(self, member: Member, number: int) -> None:
        members = self._context.members
        news = self._dissemination.piggyback(first=self._suspicions.news_for(member.node))
        self._context.send(
            member.address,
            Ping(number, members.own.node, members.state_hash, news),
            confirmed=self._answered_lately(member.node),
        )

    def _answered_lately(self, node: NodeId) -> bool:
        config = self._context.config
        turns_s = config.probe_interval_s * (2 if config.probe_successor else 1)
        round_s = self._context.members.online_count * turns_s
        answered_at = self._answered_at.get(node)
        if answered_at is None:
            return False
        return self._context.now - answered_at < ROUNDS_CONFIRMED * round_s
