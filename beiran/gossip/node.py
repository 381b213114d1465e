"""One node of the cluster: every input takes the time and returns effects.

    effects = node.receive_datagram(data, source, now=now)
    effects = node.hold(holdings, descriptions, now=now)
    effects = node.advance(now=now)              # whatever is due
    deadline = node.next_deadline()              # when to call advance again

``now`` is in seconds on any clock that does not go backwards. This module takes inputs apart and
hands each piece to the part whose idea it is; it decides nothing itself.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.gossip.codec import Codec
from beiran.gossip.common import CommonPicture
from beiran.gossip.config import GossipConfig
from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.effects import Effect, MemberForgotten
from beiran.gossip.membership.discovery import Discovery
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_table import Membership
from beiran.gossip.membership.suspicion_protocol import Verdicts
from beiran.gossip.messages import (
    Ack,
    Ahead,
    Alive,
    Beacon,
    Delta,
    Described,
    Gossip,
    Nack,
    News,
    NewsItem,
    Ping,
    PingReq,
    StreamAck,
    StreamPing,
    SyncBegin,
    SyncExchange,
    SyncVector,
    Want,
)
from beiran.gossip.possession.image_descriptions import Descriptions
from beiran.gossip.possession.merge import STRANGER_SYNC_S, Reconciliation
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.possession.push_pull import AntiEntropy
from beiran.gossip.timers import (
    BeaconDue,
    ExtraProbeEnds,
    GossipTickDue,
    IndirectProbeDue,
    LeaveRepeatDue,
    NackDue,
    PingRetryDue,
    ProbeDue,
    PushPullDue,
    ReapDue,
    ReconnectDue,
    RememberedReapDue,
    RewatchDue,
    SecondPushDue,
    SeedsDue,
    SuspicionDue,
    Timer,
    WantDue,
)
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription
from beiran.sansio.wire import OtherCluster

if TYPE_CHECKING:
    from random import Random

FAREWELL_RETRY_S = 0.1
FAREWELL_TRIES = 4
GOODBYE_S = 1.0  # whoever left this lately and still speaks is on its way out, and not asked why


class Remembered(Struct, frozen=True):
    """What an earlier life knew of a member: where it was, and what it held at which version."""

    member: Member
    version: int
    holdings: tuple[Holding, ...]


class GossipNode:
    """The protocol core of one node.

    Args:
      own: ourselves; alive, with the generation of this life.
      cluster: its name; packets of others are counted and ignored.
      version: of our holdings when we last ran, or the wall clock's milliseconds, whichever is
        larger; never 0.
      holdings: what we held then.
      remembered: members of that life. descriptions: of images that it knew.
      codec: if not this release's own; simulations hand in others.
      common: all that we know from the beginning, ourselves included; version, holdings,
        remembered and descriptions are then in it.
    """

    def __init__(
        self,
        own: Member,
        *,
        cluster: str,
        config: GossipConfig,
        random: "Random",
        now: float,
        version: int,
        holdings: Iterable[Holding] = (),
        remembered: Iterable[Remembered] = (),
        descriptions: Iterable[ImageDescription] = (),
        codec: Codec | None = None,
        common: CommonPicture | None = None,
    ) -> None:
        self._members = Membership(own, random, common)
        self._context = Context(config, codec or Codec(cluster), random, self._members, now)
        self._possession = Possession(tombstones_max=config.tombstones_max)
        self._dissemination = Dissemination(self._context)
        self._verdicts = Verdicts(self._context, self._dissemination)
        self._detector = FailureDetector(
            self._context,
            self._dissemination,
            unreachable=lambda node: self._verdicts.accuse(node, refused=False),
            suspicion_news=self._verdicts.suspicion_news,
        )
        self._anti_entropy = AntiEntropy(self._context, self._possession)
        self._descriptions = Descriptions(self._context, self._possession)
        self._reconciliation = Reconciliation(
            self._context,
            self._possession,
            self._dissemination,
            self._descriptions,
            self._anti_entropy,
            self._verdicts,
        )
        self._discovery = Discovery(self._context, self._anti_entropy, self._detector)
        self._verdicts.detector = self._detector
        self._verdicts.recall = self._discovery.recall
        self._farewells: dict[NodeId, int] = {}
        self._farewell_news: NewsItem | None = None
        self._seen_picture = self._members.picture
        if common is None:
            self._restore(version, holdings, remembered, descriptions)
        else:
            self._possession.share(common.logs, common.holders)
            self._descriptions.share(common.descriptions)

    # --- what is known ----------------------------------------------------------------------

    @property
    def own(self) -> Member:
        """Ourselves."""
        return self._members.own

    @property
    def members(self) -> Membership:
        """Everybody. To be read only."""
        return self._members

    @property
    def possession(self) -> Possession:
        """Who holds what. To be read only."""
        return self._possession

    @property
    def descriptions(self) -> Descriptions:
        """What images are. To be read only."""
        return self._descriptions

    @property
    def counters(self) -> dict[str, int]:
        """What happened how often since the start."""
        return self._context.counters

    @property
    def local_health(self) -> int:
        """Lifeguard's local health multiplier: 0 is well, more is worse."""
        return self._detector.local_health

    @property
    def sizes(self) -> dict[str, int]:
        """How much is kept in each of the tables that come and go: all have limits."""
        return {
            "rumours": len(self._dissemination),
            "suspicions": self._verdicts.suspicion_count,
            "probes": self._detector.probe_count,
            "relays": self._detector.relay_count,
            "exchanges": self._anti_entropy.exchange_count,
            "wanted": self._descriptions.wanted_count,
            "timers": len(self._context.timers),
            "heard": self._verdicts.heard_count,
            "tombstones": self._possession.tombstones_most,
        }

    @property
    def hears_nobody(self) -> bool:
        """Whether others are online for all we know, but none has been heard for a while."""
        return self._verdicts.hears_nobody

    @property
    def remembered(self) -> list[Member]:
        """Members of an earlier life that have not shown themselves yet."""
        return list(self._discovery.remembered.values())

    def last_heard(self) -> dict[NodeId, float]:
        """When each online member was last heard with our own ears; not everyone has been."""
        return self._verdicts.last_heard()

    @property
    def farewell_heard(self) -> bool:
        """After ``leave``: whether those who look after us know that we go."""
        return not self._farewells

    # --- inputs: the operator and the engine ------------------------------------------------

    def start(self, *, now: float, beacons: bool = True, settled: bool = False) -> list[Effect]:
        """Begin to gossip. ``settled``: go on as one that has done so for long."""
        self._begin(now)
        self._discovery.beacons = beacons
        self._detector.start()
        if settled:
            self._discovery.go_on()
            self._verdicts.rewatch()
        else:
            self._discovery.start()
        return self._end()

    def join(self, addresses: Iterable[Address], *, now: float) -> list[Effect]:
        """Get in touch with these addresses, and again until somebody there answers."""
        self._begin(now)
        self._discovery.join(addresses)
        return self._end()

    def hold(
        self,
        holdings: Sequence[Holding],
        descriptions: Sequence[ImageDescription],
        *,
        now: float,
    ) -> list[Effect]:
        """We hold these images now, under these names. ``descriptions``: of those that are new."""
        self._begin(now)
        for description in descriptions:
            self._descriptions.learn(description)
        self._reconciliation.change_own(holdings, ())
        return self._end()

    def release(self, images: Sequence[Digest], *, now: float) -> list[Effect]:
        """We no longer hold these images."""
        self._begin(now)
        self._reconciliation.change_own((), images)
        self._descriptions.drop_unheld(images)
        return self._end()

    def move_to(self, address: Address, *, now: float) -> list[Effect]:
        """Our address has changed: tell everybody the new one."""
        self._begin(now)
        if address != self.own.address:
            self._verdicts.move_to(address)
        return self._end()

    def leave(self, *, now: float) -> list[Effect]:
        """Say goodbye; ``farewell_heard`` tells when the process may end."""
        self._begin(now)
        own = self.own.node
        neighbours = self._members.neighbours(own, self._context.config.watchers, step=-1)
        neighbours += self._members.some(self._context.config.fanout)
        self._farewell_news = self._verdicts.leave()
        self._verdicts.rewatch()
        self._farewells = {node: FAREWELL_TRIES for node in neighbours if node != own}
        self._say_farewell()
        return self._end()

    # --- inputs: the network ----------------------------------------------------------------

    def receive_datagram(self, data: bytes, source: Address, *, now: float) -> list[Effect]:
        """A datagram has come from ``source``. What cannot be read is counted and ignored."""
        self._begin(now)
        self._context.counters["datagrams_received"] += 1
        try:
            message = self._context.codec.decode_datagram_untrusted(data)
            news = self._context.codec.decode_news_untrusted(message.news)
        except BadPacket as error:
            self._count_bad(error)
            return self._end()
        if isinstance(message, Beacon):
            self._on_beacon(message)
            return self._end()
        if message.sender == self.own.node:
            return self._end()  # our own, or of another that uses our UUID
        self._verdicts.hear(message.sender)
        for told, item in news:
            self._on_news(told, item, message.sender)
        match message:
            case Ping():
                self._on_ping(message, source)
            case Ack():
                self._detector.on_ack(message, source)
                self._farewells.pop(message.sender, None)
                self._catch_up(message)
                self._meet(message.sender, source, message.state_hash)
            case PingReq():
                self._detector.on_ping_req(message, source)
            case Nack():
                self._detector.on_nack(message)
            case Want():
                member = self._members.get(message.sender)
                if member is not None and member.address == source:  # else it may be forged
                    self._descriptions.answer(source, message.images)
            case Described():
                self._descriptions.on_described(message)
            case Gossip():
                pass
        return self._end()

    def receive_request(self, data: bytes, *, now: float) -> tuple[bytes | None, list[Effect]]:
        """A request has come over TCP. Returns its reply, or None if it cannot be read."""
        self._begin(now)
        try:
            message = self._context.codec.decode_stream_untrusted(data)
            reply: SyncVector | SyncExchange | StreamAck | Described
            match message:
                case SyncBegin():
                    reply = self._anti_entropy.vector_for(message)
                    self._verdicts.hear(message.sender.node)
                    self._reconciliation.on_alive_directly(message.sender)
                case SyncExchange():
                    self._reconciliation.apply_exchange(message)
                    reply = self._anti_entropy.answer_wants(message.wants)
                case StreamPing():
                    self._verdicts.hear(message.sender)
                    reply = StreamAck(self.own.node)
                case Want():
                    reply = self._descriptions.answer_stream(message.images)
                case _:
                    raise BadPacket("a reply where a request was expected")
        except BadPacket as error:
            self._count_bad(error)
            return None, self._end()
        return self._context.codec.encode_stream(reply), self._end()

    def receive_reply(self, token: int, data: bytes, *, now: float) -> list[Effect]:
        """The reply to a ``SendRequest`` has come."""
        self._begin(now)
        try:
            message = self._context.codec.decode_stream_untrusted(data)
            if isinstance(message, SyncVector):
                self._verdicts.reached_by_tcp(message.sender.node)
            elif isinstance(message, SyncExchange | StreamAck | Described):
                self._verdicts.reached_by_tcp(message.sender)
            match message:
                case SyncVector() if self._anti_entropy.awaits(token):
                    asked = self._anti_entropy.address_asked(token)
                    self._discovery.answered(asked, message.sender.node)
                    self._reconciliation.on_vector(token, message)
                case SyncExchange() if self._anti_entropy.awaits(token):
                    self._reconciliation.apply_exchange(message)
                    self._anti_entropy.finish(token)
                case StreamAck() if self._detector.on_stream_ack(token, message.sender):
                    self._verdicts.hear(message.sender)
                case Described() if self._descriptions.on_reply(token, message):
                    pass
                case _:  # what it should have answered has failed, and is not waited for
                    raise BadPacket("a reply that fits no request of ours")
        except BadPacket as error:
            self._count_bad(error)
            self._fail(token, refused=False)
        return self._end()

    def request_failed(self, token: int, *, refused: bool, now: float) -> list[Effect]:
        """A ``SendRequest`` got no reply. ``refused``: the host says that nobody listens there."""
        self._begin(now)
        self._context.counters["requests_failed"] += 1
        self._fail(token, refused=refused)
        return self._end()

    def refused(self, address: Address, *, now: float) -> list[Effect]:
        """A host says that nobody listens on its agent's UDP port (ICMP port unreachable)."""
        self._begin(now)
        member = self._members.at(address)
        if member is not None and member.node in self._verdicts.last_heard():
            self._verdicts.accuse(member.node, refused=True)
        return self._end()

    def watch_broken(self, node: NodeId, *, refused: bool, now: float) -> list[Effect]:
        """A watched member cannot be connected to; ``refused``: it was, and its host says that
        nobody listens now."""
        self._begin(now)
        member = self._members.get(node)
        if member is not None and member.status.online:
            if refused:
                self._verdicts.reached_by_tcp(node)
                self._verdicts.refused_by(node)
            else:
                self._detector.probe_now(node)
        return self._end()

    # --- inputs: time -----------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``advance`` is to be called next, or None if nothing is planned."""
        return self._context.timers.next_deadline()

    def advance(self, *, now: float) -> list[Effect]:
        """Do whatever is due."""
        self._begin(now)
        while (timer := self._context.timers.pop_due(now)) is not None:
            self._handle(timer)
        return self._end()

    def _handle(self, timer: Timer) -> None:
        match timer:
            case ProbeDue():
                self._detector.next_round()
            case PingRetryDue(probe=number):
                self._detector.retry(number)
            case IndirectProbeDue(probe=number):
                self._detector.ask_others(number)
            case ExtraProbeEnds(probe=number):
                self._detector.conclude_extra(number)
            case NackDue(probe=number):
                self._detector.relay_unanswered(number)
            case SuspicionDue(node=node):
                self._verdicts.verdict(node)
            case RewatchDue():
                self._verdicts.rewatch()
            case ReapDue(node=node):
                self._forget(node)
            case RememberedReapDue():
                self._forget_remembered()
            case SecondPushDue():
                self._dissemination.push_again()
            case GossipTickDue():
                self._dissemination.push_tick()
            case PushPullDue():
                self._anti_entropy.begin_scheduled()
            case WantDue():
                self._descriptions.ask_again()
            case BeaconDue():
                self._discovery.call()
            case ReconnectDue():
                self._discovery.try_lost()
            case SeedsDue():
                self._discovery.try_seeds()
            case LeaveRepeatDue():
                self._say_farewell()
            case _:
                assert_never(timer)

    def _begin(self, now: float) -> None:
        context = self._context
        context.now = max(now, context.now)
        deadline = context.timers.next_deadline()
        if deadline is not None and context.now - deadline > context.config.pause_s:
            # What was due long ago was not done: it is we who were away, not the others.
            late = context.now - deadline
            context.counters["pauses"] += 1
            context.timers.shift(late)
            self._verdicts.was_away(late)

    def _end(self) -> list[Effect]:
        self._dissemination.flush()
        self._descriptions.flush()
        context = self._context
        if self._members.picture != self._seen_picture:
            self._seen_picture = self._members.picture
            self._anti_entropy.changed_at = context.now
        return context.take_effects()

    def _on_news(self, news: News, item: NewsItem, heard_from: NodeId) -> None:
        if isinstance(news, Delta):
            self._reconciliation.on_delta(news, item, heard_from)
        elif isinstance(news, Ahead):
            self._reconciliation.on_ahead(news, heard_from)
        else:
            self._verdicts.on_news(news, item, heard_from, eager=True)

    # --- members ----------------------------------------------------------------------------

    def _on_ping(self, message: Ping, source: Address) -> None:
        member = self._members.get(message.sender)
        news: tuple[NewsItem, ...] = ()
        if self._farewell_news is not None:
            news = (self._farewell_news,)
        elif member is not None and member.status.online:  # a stranger's source may be forged
            suspicion = self._verdicts.suspicion_news(message.sender)
            news = self._dissemination.piggyback(picture=message.state_hash, first=suspicion)
        ack = Ack(message.probe, self.own.node, self._members.picture, news)
        self._context.send(source, ack, confirmed=self._detector.answered_lately(message.sender))
        self._meet(message.sender, source, message.state_hash)

    def _catch_up(self, ack: Ack) -> None:
        member = self._members.get(ack.sender)
        if member is not None and member.status.online:
            self._dissemination.catch_up(member, ack.state_hash)

    def _meet(self, node: NodeId, source: Address, picture: int) -> None:
        """A member has shown itself and its picture: compare, or get to know it."""
        member = self._members.get(node)
        if member is not None and member.status.online:
            self._anti_entropy.compare(member, picture)
        elif not self._verdicts.leaving and not self._says_goodbye(member):
            address = member.address if member is not None else source
            self._anti_entropy.soon(address, node, within_s=STRANGER_SYNC_S)

    def _says_goodbye(self, member: Member | None) -> bool:
        if member is None or member.status != Status.LEFT:
            return False
        left_at = self._members.offline_since(member.node)
        return left_at is not None and self._context.now - left_at < GOODBYE_S

    def _on_beacon(self, beacon: Beacon) -> None:
        alive = beacon.alive
        if alive.node != self.own.node:
            self._context.counters["beacons_received"] += 1
            self._verdicts.hear(alive.node)
        self._reconciliation.on_alive_directly(alive)
        member = self._members.get(alive.node)
        if alive.node == self.own.node or member is None or self._verdicts.leaving:
            return
        if not member.status.online:  # it does not know that it was declared down
            if self._discovery.responds_to(alive.node):
                self._anti_entropy.soon(member.address, alive.node, within_s=STRANGER_SYNC_S)
        elif beacon.state_hash != self._members.picture and self._discovery.responds_to(alive.node):
            # It may be new here, and leave again before a push-pull tells it who we are.
            hello = self._context.codec.encode_news(Alive.of(self.own))
            self._detector.say(member, hello)

    def _forget(self, node: NodeId) -> None:
        if self._verdicts.forget(node):
            self._descriptions.drop_unheld(self._possession.forget(node))

    def _forget_remembered(self) -> None:
        for node in list(self._discovery.remembered):
            self._discovery.recall(node)
            if node not in self._members:
                self._members.forget(node)
                self._context.emit(MemberForgotten(node))
                self._descriptions.drop_unheld(self._possession.forget(node))

    def _say_farewell(self) -> None:
        for node, tries in list(self._farewells.items()):
            member = self._members.get(node)
            if tries == 0 or member is None or self._farewell_news is None:
                del self._farewells[node]
                continue
            self._farewells[node] = tries - 1
            self._detector.say(member, self._farewell_news)
        if self._farewells:
            self._context.set_timer(LeaveRepeatDue(), FAREWELL_RETRY_S)

    # --- requests ---------------------------------------------------------------------------

    def _fail(self, token: int, *, refused: bool) -> None:
        probed = self._detector.stream_failed(token)
        if probed is not None and refused:
            self._verdicts.refused_by(probed)
        exchange = self._anti_entropy.failed(token)
        if exchange is not None and exchange.node is not None and refused:
            self._verdicts.refused_by(exchange.node)
        self._descriptions.on_reply(token, None)

    def _count_bad(self, error: BadPacket) -> None:
        other = isinstance(error, OtherCluster)
        self._context.counters["other_cluster_packets" if other else "bad_packets"] += 1

    def _restore(
        self,
        version: int,
        holdings: Iterable[Holding],
        remembered: Iterable[Remembered],
        descriptions: Iterable[ImageDescription],
    ) -> None:
        own = self.own.node
        self._possession.restore(own, version, holdings)
        self._members.set_version(own, version)
        self._seen_picture = self._members.picture
        others = [old for old in remembered if old.member.node != own]
        for old in others:
            self._possession.restore(old.member.node, old.version, old.holdings)
            self._members.set_version(old.member.node, old.version)
        self._discovery.remember(old.member for old in others)
        self._descriptions.restore(descriptions)
        self._context.set_timer(RememberedReapDue(), self._context.config.forget_s)
