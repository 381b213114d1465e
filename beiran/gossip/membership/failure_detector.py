"""Who does not answer: SWIM's probe cycle with Lifeguard's local health.

One member a second is pinged: by turns our successor on the ring and the next of a shuffled round,
so that everybody is pinged at least every other second, and by many. If it does not ack within the
probe timeout, ``indirect_probes`` others are asked to ping it and a TCP request goes out beside
them; if the probe interval ends without an ack, or all who were asked heard nothing either, the
member is suspected. Our own health stretches both times:
who misses nacks from members that should have sent them is probably itself the slow one
(Lifeguard §IV-A). ``judge`` says what follows from a probe; it is handed in.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.messages import Ack, Nack, NewsItem, Ping, PingReq, StreamPing
from beiran.gossip.timers import ExtraProbeEnds, IndirectProbeDue, NackDue, PingRetryDue, ProbeDue
from beiran.ids import NodeId

NACK_SHARE: Final = 0.8  # of the probe timeout; memberlist sends its nacks then
RELAYS_MAX: Final = 256
SUCCESSORS_MAX: Final = 4  # where so many in a row are suspected, the round goes on
PROBE_NUMBERS: Final = 2**32

SuspicionNews = Callable[[NodeId], list[NewsItem]]


class Probe(Struct):
    """One probe cycle of one member.

    Attributes:
      in_round: part of the round; otherwise an extra one, to confirm or clear a suspicion.
      expected_nacks: members that will tell us if they hear nothing either.
    """

    number: int
    target: NodeId
    in_round: bool
    expected_nacks: int = 0
    nacks: int = 0


class Relay(Struct, frozen=True):
    """A probe that we make for another: who asked, and its number there."""

    requester: Address
    number: int
    target: NodeId


class FailureDetector:
    """Probes, and what their outcomes say about the others and about us."""

    def __init__(
        self,
        context: Context,
        dissemination: Dissemination,
        *,
        unreachable: Callable[[NodeId], None],
        suspicion_news: SuspicionNews,
    ) -> None:
        self._context = context
        self._dissemination = dissemination
        self._unreachable = unreachable
        self._suspicion_news = suspicion_news
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._stream_probes: dict[int, tuple[int, NodeId]] = {}
        self._number = context.random.randrange(PROBE_NUMBERS)
        self._answered_at: dict[NodeId, float] = {}
        self._successor_next = False
        self.local_health = 0

    @property
    def health_factor(self) -> int:
        """What probe interval and timeout are multiplied with: 1 when all is well."""
        return self.local_health + 1

    @property
    def probe_count(self) -> int:
        """How many probes are under way."""
        return len(self._probes)

    @property
    def relay_count(self) -> int:
        """How many probes for others are remembered; at most ``RELAYS_MAX``."""
        return len(self._relays)

    def worsen_health(self, by: int = 1) -> None:
        """We have reason to doubt ourselves (Lifeguard: LHM + 1), or less of it (negative)."""
        self.local_health = min(
            self._context.config.local_health_max, max(0, self.local_health + by)
        )

    def answered_lately(self, node: NodeId) -> bool:
        """Whether a member has answered us in the last two rounds: the way to it is known."""
        config = self._context.config
        turns_s = config.probe_interval_s * (2 if config.probe_successor else 1)
        round_s = self._context.members.online_count * turns_s
        return self._context.now - self._answered_at.get(node, -1e9) < 2 * round_s

    def start(self) -> None:
        """Begin the rounds, at a time that differs from node to node."""
        interval = self._context.config.probe_interval_s
        self._context.set_timer(ProbeDue(), interval * self._context.random.uniform(0.3, 1.0))

    def next_round(self) -> None:
        """Probe the next member of the round."""
        context = self._context
        for number in [n for n, probe in self._probes.items() if probe.in_round]:
            self._conclude(number)
        context.set_timer(ProbeDue(), context.config.probe_interval_s * self.health_factor)
        target = self._next_target()
        if target is not None:
            self._start_probe(target, in_round=True)

    def probe_now(self, node: NodeId) -> None:
        """Probe a member out of turn, unless that is under way."""
        if any(probe.target == node for probe in self._probes.values()):
            return
        probe = self._start_probe(node, in_round=False)
        interval = self._context.config.probe_interval_s * self.health_factor
        self._context.set_timer(ExtraProbeEnds(probe.number), interval)

    def ping(self, member: Member) -> int:
        """Send one ping. Returns its number."""
        self._number = (self._number + 1) % PROBE_NUMBERS
        self._send_ping(member, self._number)
        return self._number

    def say(self, member: Member, news: NewsItem) -> None:
        """Ping a member to tell it something: its ack says that it knows."""
        self._number = (self._number + 1) % PROBE_NUMBERS
        own = self._context.members
        message = Ping(self._number, own.own.node, own.picture, (news,))
        self._context.send(member.address, message)

    # --- what happens to a probe ------------------------------------------------------------

    def retry(self, number: int) -> None:
        """The first ping was perhaps lost: send another."""
        probe = self._probes.get(number)
        member = self._context.members.get(probe.target) if probe else None
        if member is not None:
            self._context.lost_at = self._context.now
            self._send_ping(member, number)

    def ask_others(self, number: int) -> None:
        """No ack within the probe timeout: ping-req through others, and TCP. SWIM §3.1."""
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
            news = self._dissemination.piggyback(first=self._suspicion_news(node))
            context.send(helper.address, PingReq(number, own, probe.target, host, port, news))
        if context.config.stream_probe:
            timeout = context.config.probe_interval_s - context.config.probe_timeout_s
            self.stream_probe(member, number, timeout_s=timeout * self.health_factor)

    def stream_probe(self, member: Member, number: int, *, timeout_s: float) -> None:
        """Ask a member over TCP. ``number``: the probe it belongs to, or -1."""
        message = StreamPing(self._context.members.own.node)
        token = self._context.request(member.address, message, timeout_s=timeout_s)
        self._stream_probes[token] = (number, member.node)

    def conclude_extra(self, number: int) -> None:
        """The time of an extra probe is over."""
        self._conclude(number)

    # --- what is heard ----------------------------------------------------------------------

    def on_ping_req(self, message: PingReq, requester: Address) -> None:
        """Ping ``target`` for another member."""
        context = self._context
        target = message.address
        if len(self._relays) >= RELAYS_MAX:
            self._relays.pop(next(iter(self._relays)))
        self._number = (self._number + 1) % PROBE_NUMBERS
        self._relays[self._number] = Relay(requester, message.probe, message.target)
        known = context.members.get(message.target)
        news: tuple[NewsItem, ...] = ()
        if known is not None and known.address == target:  # else anybody could have it sent there
            news = self._dissemination.piggyback(first=self._suspicion_news(message.target))
        own = context.members
        context.send(target, Ping(self._number, own.own.node, own.picture, news))
        nack_after = NACK_SHARE * context.config.probe_timeout_s
        context.set_timer(NackDue(self._number), nack_after)

    def relay_unanswered(self, number: int) -> None:
        """We could not reach the target either, and say so. Lifeguard §IV-A."""
        relay = self._relays.get(number)
        if relay is not None and self._context.config.nacks:
            own = self._context.members.own.node
            self._context.send(relay.requester, Nack(relay.number, own))

    def on_ack(self, message: Ack, source: Address) -> None:
        """An ack, to us or to whom we asked for."""
        member = self._context.members.get(message.sender)
        if member is not None and member.status.online and member.address == source:
            self._answered_at[message.sender] = self._context.now  # itself, by no relay
        relay = self._relays.pop(message.probe, None)
        if relay is not None and relay.target == message.sender:
            self._context.cancel_timer(NackDue(message.probe))
            self._context.send(
                relay.requester, Ack(relay.number, message.sender, message.state_hash)
            )
        probe = self._probes.get(message.probe)
        if probe is not None and probe.target == message.sender:
            self._succeed(probe)

    def on_nack(self, message: Nack) -> None:
        """A member that we asked says that it hears nothing either."""
        probe = self._probes.get(message.probe)
        if probe is None:
            return
        probe.nacks += 1
        heard_all = probe.nacks == probe.expected_nacks
        if heard_all and self._context.config.all_nacks_conclude and not self.local_health:
            self._conclude(probe.number)

    def on_stream_ack(self, token: int, sender: NodeId) -> bool:
        """A reply over TCP. Returns whether it was to a probe of ours."""
        asked = self._stream_probes.pop(token, None)
        probe = self._probes.get(asked[0]) if asked is not None else None
        if probe is not None and probe.target == sender:
            self._succeed(probe)
        return asked is not None

    def stream_failed(self, token: int) -> NodeId | None:
        """A request over TCP failed. Returns whom it was to probe, if it was a probe."""
        _, target = self._stream_probes.pop(token, (None, None))
        return target

    def give_up(self, node: NodeId) -> None:
        """Its fate is known otherwise: end all probes of a member without a verdict."""
        for number in [n for n, probe in self._probes.items() if probe.target == node]:
            self._end(self._probes[number])
        self._answered_at.pop(node, None)

    # --- inside -----------------------------------------------------------------------------

    def _next_target(self) -> NodeId | None:
        """Whose turn it is: the next of the round, and every other time our successor."""
        members, config = self._context.members, self._context.config
        self._successor_next = not self._successor_next
        if config.probe_successor and self._successor_next:
            for node in members.neighbours(members.own.node, SUCCESSORS_MAX, step=1):
                member = members.get(node)
                if member is not None and member.status == Status.ALIVE:
                    return node
        return members.next_to_probe()

    def _start_probe(self, target: NodeId, *, in_round: bool) -> Probe:
        context = self._context
        member = context.members.get(target)
        assert member is not None, "only members are probed"
        probe = Probe(self.ping(member), target, in_round)
        self._probes[probe.number] = probe
        if context.config.ping_retry_s:
            context.set_timer(PingRetryDue(probe.number), context.config.ping_retry_s)
        timeout = context.config.probe_timeout_s * self.health_factor
        context.set_timer(IndirectProbeDue(probe.number), timeout)
        return probe

    def _send_ping(self, member: Member, number: int) -> None:
        context = self._context
        own = context.members
        news = self._dissemination.piggyback(first=self._suspicion_news(member.node))
        context.send(
            member.address,
            Ping(number, own.own.node, own.picture, news),
            confirmed=self.answered_lately(member.node),
        )

    def _succeed(self, probe: Probe) -> None:
        self._end(probe)
        if probe.in_round:
            self.worsen_health(-1)

    def _conclude(self, number: int) -> None:
        probe = self._probes.get(number)
        if probe is None:
            return
        self._end(probe)
        if self._context.members.get(probe.target) is None:
            return
        missed = probe.expected_nacks - probe.nacks
        self.worsen_health(missed if probe.expected_nacks and self._context.config.nacks else 1)
        self._context.counters["probes_failed"] += 1
        self._unreachable(probe.target)

    def _end(self, probe: Probe) -> None:
        del self._probes[probe.number]
        for timer in (PingRetryDue, IndirectProbeDue, ExtraProbeEnds):
            self._context.cancel_timer(timer(probe.number))
