"""One node of the cluster: every input takes the time and returns effects.

    effects = node.receive_datagram(data, source, now=now)
    effects = node.hold(holdings, descriptions, now=now)
    effects = node.advance(now=now)              # whatever is due
    deadline = node.next_deadline()              # when to call advance again

``now`` is in seconds on any clock that does not go backwards. The agent's driver
(``beiran.agent.gossip_driver``) and the simulations call this.

The parts are made in the order of their imports: each is handed the parts that it calls, and none
calls back. This module decodes an input, hands it to the part whose idea it is, and passes what one
part returns on to the next; what a fact or a timer leads to is decided in the parts.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, assert_never

from beiran.errors import BadPacket
from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.effects import Effect
from beiran.gossip.membership.awareness import Awareness
from beiran.gossip.membership.discovery import Discovery
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.leaving import LeaveBroadcast
from beiran.gossip.membership.member import Address, Member
from beiran.gossip.membership.member_changes import MemberChanges
from beiran.gossip.membership.member_table import MemberTable
from beiran.gossip.membership.member_updates import MemberUpdates
from beiran.gossip.membership.own_member import OwnMember
from beiran.gossip.membership.ring_watch import RingWatch
from beiran.gossip.membership.suspicion import Suspicions
from beiran.gossip.membership.suspicion_protocol import SuspicionProtocol
from beiran.gossip.messages import (
    Ack,
    Ahead,
    Beacon,
    Datagram,
    Delta,
    Described,
    Gossip,
    Nack,
    News,
    NewsItem,
    Ping,
    PingReq,
    Stream,
    StreamAck,
    StreamPing,
    SyncBegin,
    SyncExchange,
    SyncVector,
    Want,
)
from beiran.gossip.possession.holdings import Holdings
from beiran.gossip.possession.image_descriptions import Descriptions
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.possession.push_pull import PushPull
from beiran.gossip.requests import DescriptionRequest, ProbeRequest, PushPullRequest, Request
from beiran.gossip.tables import Tables
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


class GossipNode:
    """The gossip core of one node.

    Args:
      own: this node; alive, with the generation of this life.
      tables: what it knows when it begins, itself included.
      codec: of its cluster; simulations hand in those of other releases.
    """

    def __init__(
        self,
        own: Member,
        tables: Tables,
        *,
        codec: Codec,
        config: GossipConfig,
        random: "Random",
        now: float,
    ) -> None:
        self._members = MemberTable(own, random, tables)
        context = self._context = Context(config, codec, random, self._members, now)
        self._possession = Possession(
            tables.logs, tables.holders, tombstones_max=config.tombstones_max
        )
        self._dissemination = Dissemination(context)
        self._awareness = Awareness(context)
        self._suspicions = Suspicions(context)
        self._detector = FailureDetector(
            context, self._dissemination, self._awareness, self._suspicions
        )
        self._watches = RingWatch(context)
        self._changes = MemberChanges(
            context,
            self._dissemination,
            self._awareness,
            self._suspicions,
            self._detector,
            self._watches,
        )
        self._own = OwnMember(context, self._dissemination, self._awareness, self._changes)
        self._leaving = LeaveBroadcast(context, self._detector, self._own, self._watches)
        self._suspicion = SuspicionProtocol(
            context,
            self._dissemination,
            self._awareness,
            self._suspicions,
            self._detector,
            self._watches,
            self._changes,
            self._own,
        )
        self._updates = MemberUpdates(
            context, self._dissemination, self._changes, self._own, self._suspicion
        )
        self._descriptions = Descriptions(context, self._possession, tables.descriptions)
        self._holdings = Holdings(
            context, self._possession, self._dissemination, self._descriptions
        )
        self._push_pull = PushPull(
            context, self._possession, self._holdings, self._updates, self._suspicion, self._own
        )
        self._discovery = Discovery(context, self._push_pull, self._detector)
        if tables.remembered:
            context.set_timer(RememberedReapDue(), config.forget_s)

    # --- what is known ----------------------------------------------------------------------

    @property
    def own(self) -> Member:
        """This node."""
        return self._members.own

    @property
    def members(self) -> MemberTable:
        """All members. To be read only."""
        return self._members

    @property
    def possession(self) -> Possession:
        """The holdings of all owners. Read-only for callers."""
        return self._possession

    @property
    def descriptions(self) -> Descriptions:
        """The descriptions of images. Read-only for callers."""
        return self._descriptions

    @property
    def counters(self) -> dict[str, int]:
        """How often each thing happened since the start."""
        return self._context.counters

    @property
    def local_health(self) -> int:
        """Lifeguard's local health multiplier: 0 is well, more is worse."""
        return self._awareness.local_health

    @property
    def deaf(self) -> bool:
        """Whether others are online for all this node knows, but none was heard for a while."""
        return self._awareness.deaf

    @property
    def last_heard(self) -> dict[NodeId, float]:
        """When this node last received a packet of each online member, of those that sent one."""
        return self._awareness.last_heard()

    @property
    def leave_acknowledged(self) -> bool:
        """After ``leave``: whether the members that must know have acknowledged it."""
        return self._leaving.acknowledged

    @property
    def sizes(self) -> dict[str, int]:
        """How many entries each of the tables has that come and go: all have limits."""
        return {
            "updates": len(self._dissemination),
            "suspicions": len(self._suspicions),
            "probes": self._detector.probe_count,
            "relays": self._detector.relay_count,
            "exchanges": self._push_pull.count,
            "wanted": self._descriptions.wanted_count,
            "timers": len(self._context.timers),
            "heard": self._awareness.heard_count,
            "tombstones": self._possession.tombstones_most,
        }

    # --- inputs: the operator and the engine ------------------------------------------------

    def start(self, *, now: float, beacons: bool = True) -> list[Effect]:
        """Begin to gossip. ``beacons``: send beacons too."""
        self._begin(now)
        self._detector.start()
        self._discovery.start(beacons=beacons)
        self._watches.update()
        return self._end()

    def join(self, addresses: Iterable[Address], *, now: float) -> list[Effect]:
        """Get in touch with these addresses, and again until an agent there answers."""
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
        """This node holds these images now, under these names. ``descriptions``: of new ones."""
        self._begin(now)
        for description in descriptions:
            self._descriptions.learn(description)
        self._holdings.change_own(holdings, ())
        return self._end()

    def release(self, images: Sequence[Digest], *, now: float) -> list[Effect]:
        """This node no longer holds these images."""
        self._begin(now)
        self._holdings.change_own((), images)
        self._descriptions.drop_unheld(images)
        return self._end()

    def move_to(self, address: Address, *, now: float) -> list[Effect]:
        """This node's address has changed: announce the new one."""
        self._begin(now)
        self._own.move_to(address)
        return self._end()

    def leave(self, *, now: float) -> list[Effect]:
        """Leave the cluster. The process may end once ``leave_acknowledged``."""
        self._begin(now)
        self._leaving.begin()
        return self._end()

    # --- inputs: the network ----------------------------------------------------------------

    def receive_datagram(self, data: bytes, source: Address, *, now: float) -> list[Effect]:
        """A datagram has come from ``source``. Bytes that cannot be read are counted only."""
        self._begin(now)
        self._context.counters["datagrams_received"] += 1
        try:
            message = self._context.codec.decode_datagram_untrusted(data)
            news = self._context.codec.decode_news_untrusted(message.news)
        except BadPacket as error:
            self._count_bad(error)
            return self._end()
        if message.sender == self.own.node and not isinstance(message, Beacon):
            return self._end()  # our own, or of another that uses our UUID
        self._suspicion.hear(message.sender)
        for update, item in news:
            self._on_news(update, item, message.sender)
        self._on_datagram(message, source)
        return self._end()

    def receive_request(self, data: bytes, *, now: float) -> tuple[bytes | None, list[Effect]]:
        """A request has come over TCP. Returns its reply, or None if it cannot be read."""
        self._begin(now)
        try:
            reply = self._answer(self._context.codec.decode_stream_untrusted(data))
        except BadPacket as error:
            self._count_bad(error)
            return None, self._end()
        return self._context.codec.encode_stream(reply), self._end()

    def receive_reply(self, token: int, data: bytes, *, now: float) -> list[Effect]:
        """The reply to a ``SendRequest`` has come."""
        self._begin(now)
        request = self._context.requests.pop(token, None)
        try:
            self._on_reply(request, self._context.codec.decode_stream_untrusted(data))
        except BadPacket as error:
            self._count_bad(error)
        return self._end()

    def request_failed(self, token: int, *, refused: bool, now: float) -> list[Effect]:
        """A ``SendRequest`` got no reply. ``refused``: the host says that no process listens."""
        self._begin(now)
        self._context.counters["requests_failed"] += 1
        request = self._context.requests.pop(token, None)
        if refused and isinstance(request, ProbeRequest | PushPullRequest) and request.node:
            self._suspicion.on_tcp_refused(request.node)
        return self._end()

    def refused(self, address: Address, *, now: float) -> list[Effect]:
        """A host says that no process listens on its agent's UDP port (ICMP port unreachable)."""
        self._begin(now)
        self._suspicion.on_udp_refused(address)
        return self._end()

    def watch_broken(self, node: NodeId, *, refused: bool, now: float) -> list[Effect]:
        """A watched member cannot be connected to. ``refused``: it could be, and its host says that
        no process listens now."""
        self._begin(now)
        self._suspicion.on_watch_broken(node, refused=refused)
        return self._end()

    # --- inputs: time -----------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``advance`` is to be called next, or None if nothing is planned."""
        return self._context.timers.next_deadline()

    def advance(self, *, now: float) -> list[Effect]:
        """Do whatever is due."""
        self._begin(now)
        while (timer := self._context.timers.pop_due(now)) is not None:
            self._on_timer(timer)
        return self._end()

    # --- inside -----------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        context = self._context
        context.now = max(now, context.now)
        deadline = context.timers.next_deadline()
        if deadline is not None and context.now - deadline > context.config.pause_s:
            # A timer is overdue: it is this process that did not run, not the others.
            late_s = context.now - deadline
            context.counters["pauses"] += 1
            context.timers.shift(late_s)
            self._suspicion.was_away(late_s)

    def _end(self) -> list[Effect]:
        self._dissemination.flush()
        self._descriptions.flush()
        self._push_pull.note_state()
        return self._context.take_effects()

    def _on_news(self, news: News, item: NewsItem, heard_from: NodeId) -> None:
        if isinstance(news, Delta):
            fetch = self._holdings.on_delta(news, item, heard_from)
        elif isinstance(news, Ahead):
            fetch = self._holdings.on_ahead(news, heard_from)
        else:
            self._updates.on_news(news, item, heard_from)
            return
        if fetch:
            self._push_pull.begin_soon_with(self._members.get(heard_from))

    def _on_datagram(self, message: Datagram, source: Address) -> None:
        match message:
            case Ping():
                self._detector.on_ping(message, source, only=self._leaving.item)
                self._push_pull.meet(message.sender, source, message.state_hash)
            case Ack():
                self._detector.on_ack(message, source)
                self._leaving.on_ack(message.sender)
                self._dissemination.catch_up(message.sender, message.state_hash)
                self._push_pull.meet(message.sender, source, message.state_hash)
            case PingReq():
                self._detector.on_ping_req(message, source)
            case Nack():
                self._accuse(self._detector.on_nack(message))
            case Gossip():
                pass  # its news has been read
            case Beacon():
                self._updates.on_alive_itself(message.alive)
                self._discovery.on_beacon(message)
            case Want():
                self._descriptions.on_want(message, source)
            case Described():
                self._descriptions.on_described(message)
            case _:
                assert_never(message)

    def _answer(self, message: Stream) -> Stream:
        match message:
            case SyncBegin():
                return self._push_pull.answer_begin(message)
            case SyncExchange():
                return self._push_pull.answer_exchange(message)
            case StreamPing():
                self._suspicion.hear(message.sender)
                return StreamAck(self.own.node)
            case Want():
                return self._descriptions.answer_stream(message.images)
            case SyncVector() | StreamAck() | Described():
                raise BadPacket("a reply where a request was expected")
            case _:
                assert_never(message)

    def _on_reply(self, request: Request | None, message: Stream) -> None:
        if isinstance(message, SyncVector):
            self._awareness.note_tcp_answer(message.sender.node)
        elif isinstance(message, SyncExchange | StreamAck | Described):
            self._awareness.note_tcp_answer(message.sender)
        match request, message:
            case PushPullRequest(), SyncVector():
                self._discovery.on_answer(request.address, message.sender.node)
                self._push_pull.on_vector(request, message)
            case PushPullRequest(), SyncExchange():
                self._push_pull.on_exchange(request, message)
            case ProbeRequest(), StreamAck():
                self._detector.on_stream_ack(request, message.sender)
                self._suspicion.hear(message.sender)
            case DescriptionRequest(), Described():
                self._descriptions.on_described(message)
            case _:  # of the combinations that are left none is right
                raise BadPacket("a reply that fits no request of ours")

    def _on_timer(self, timer: Timer) -> None:
        match timer:
            case ProbeDue():
                self._accuse(self._detector.end_round())
                self._detector.begin_round()
            case PingRetryDue(probe=number):
                self._detector.retry(number)
            case IndirectProbeDue(probe=number):
                self._detector.probe_indirectly(number)
            case ExtraProbeEnds(probe=number):
                self._accuse(self._detector.end_extra(number))
            case NackDue(probe=number):
                self._detector.send_nack(number)
            case SuspicionDue(node=node):
                self._suspicion.decide(node)
            case ReapDue(node=node):
                self._holdings.forget([node] if self._changes.reap(node) else [])
            case RememberedReapDue():
                self._holdings.forget(self._changes.reap_remembered())
            case RewatchDue():
                self._watches.update()
            case SecondPushDue():
                self._dissemination.push_again()
            case GossipTickDue():
                self._dissemination.push_tick()
            case PushPullDue():
                self._push_pull.begin_scheduled()
            case WantDue():
                self._descriptions.ask_again()
            case BeaconDue():
                self._discovery.send_beacon()
            case ReconnectDue():
                self._discovery.try_lost()
            case SeedsDue():
                self._discovery.try_seeds()
            case LeaveRepeatDue():
                self._leaving.repeat()
            case _:
                assert_never(timer)

    def _accuse(self, unreachable: Iterable[NodeId]) -> None:
        for node in unreachable:
            self._suspicion.accuse(node)

    def _count_bad(self, error: BadPacket) -> None:
        other = isinstance(error, OtherCluster)
        self._context.counters["other_cluster_packets" if other else "bad_packets"] += 1
