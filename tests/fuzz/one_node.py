"""A real core, a small cluster that it knows, and whatever bytes do to it.

`run` reads its bytes as steps: datagrams, requests and replies (any bytes, or messages made by
choice and then perhaps damaged), time, refusals, and what the engine does. After every step it
checks what must be true whatever a peer sends.
"""

import zlib
from random import Random
from typing import Final

from beiran.gossip.codec import MAGIC, MAGIC_DEFLATED, Codec
from beiran.gossip.config import DATAGRAM_BYTES_MAX, GossipConfig
from beiran.gossip.effects import (
    Broadcast,
    Effect,
    HoldingsChanged,
    ImageDescribed,
    ImageForgotten,
    MemberForgotten,
    SendDatagram,
    SendRequest,
)
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.messages import Alive, Datagram, Delta, Gossip, Held, Stream, SyncBegin
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Tables
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription, LayerDescription
from beiran.sansio.wire import HEADER_BYTES
from tests.fuzz.choices import DIGESTS, HOSTS, INT64_MAX, NODES, Choices, any_of

CLUSTER: Final = "default"
CODEC: Final = Codec(CLUSTER)
OWN: Final = NodeId(NODES[0])
OWN_ADDRESS: Final = Address("10.0.0.1", 8888)
STEPS_MAX: Final = 16
DEADLINES_MAX: Final = 24  # in one step: what is due after them is late, as after a pause
_HEAD: Final = CODEC.encode_datagram(any_of(Datagram, Choices(b"")))[:HEADER_BYTES]
_ADDRESSES: Final = tuple(Address(f"10.0.0.{number}", 8888) for number in range(1, 5))
_BAD: Final = ("bad_packets", "other_cluster_packets")


def run(data: bytes) -> "OneNode":
    """Do what ``data`` says to a node of its own. Raises: AssertionError, or what it broke."""
    node = OneNode()
    choices = Choices(data)
    for _ in range(STEPS_MAX):
        if not choices:
            break
        node.step(choices)
    node.advance(0.5)
    return node


class OneNode:
    """The core, and what its driver and its store would have made of its effects.

    Attributes:
      found: the effects that go to the store, in order.
    """

    def __init__(self, *, neighbours: int = 3) -> None:
        self.now = 1000.0
        self.found: list[Effect] = []
        self._rows: dict[NodeId, set[Digest]] = {}
        self._described: set[Digest] = set()
        self._tokens: list[int] = []
        self._left = False
        own = Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE)
        self.core: Final = GossipNode(
            own,
            Tables.restored(own, 3),
            codec=CODEC,
            config=GossipConfig(),
            random=Random(1),
            now=self.now,
        )
        self.do(self.core.start(now=self.now))
        self.hold(0)
        for number in range(1, 1 + neighbours):
            self._meet(number)

    def _meet(self, number: int) -> None:
        """A neighbour with two images gets in touch, as it would after its beacon."""
        node = NodeId(NODES[number])
        alive = Alive(node, 5, 0, HOSTS[number], 8888, f"h{number}")
        begin = CODEC.encode_stream(SyncBegin(alive, bytes(8)))
        reply, effects = self.core.receive_request(begin, now=self.now)
        assert reply is not None
        self.do(effects)
        held = (Held(Digest(DIGESTS[number])), Held(Digest(DIGESTS[0]), ("a:1",)))
        news = CODEC.encode_news(Delta(node, 0, 4, held))
        gossip = CODEC.encode_datagram(Gossip(node, (news,)))
        self.do(self.core.receive_datagram(gossip, _ADDRESSES[number], now=self.now))

    # --- steps

    def step(self, choices: Choices) -> None:
        """Do one thing, and check."""
        match choices.below(16):
            case 0:
                self._hear(choices.chunk(), choices)
            case 1:
                self._hear(_HEAD + choices.chunk(), choices)
            case 2:
                datagram = CODEC.encode_datagram(any_of(Datagram, choices))
                self._hear(_damaged(datagram, choices), choices)
            case 3 | 4 | 5 | 6 | 7:
                self._hear(CODEC.encode_datagram(any_of(Datagram, choices)), choices)
            case 8:
                self._answer(choices.one((b"", MAGIC, _HEAD, _deflated_head())) + choices.chunk())
            case 9:
                self._answer(_damaged(CODEC.encode_stream(any_of(Stream, choices)), choices))
            case 10:
                self._answer(CODEC.encode_stream(any_of(Stream, choices)))
            case 11:
                self._answer(_deflated_head() + zlib.compress(choices.chunk()))
            case 12:
                self._reply(choices)
            case 13:
                self.advance(choices.one((0.001, 0.05, 0.3, 1.0, 3.0, 10.0, 90_000.0)))
            case 14:
                self._outside(choices)
            case 15:
                self._engine(choices)
        self._check_tables()

    def advance(self, seconds: float) -> None:
        """Let time pass, as the driver does: to each deadline on the way; after many, at once."""
        end = self.now + seconds
        for _ in range(DEADLINES_MAX):
            deadline = self.core.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.do(self.core.advance(now=self.now))
        self.now = end
        self.do(self.core.advance(now=self.now))

    def _hear(self, data: bytes, choices: Choices) -> None:
        before, bad = self._state(), self._bad()
        source = choices.one(_ADDRESSES)
        effects = self.core.receive_datagram(data, source, now=self.now)
        if self._bad() > bad:
            assert self._state() == before, "a bad datagram has changed something"
            assert effects == [], "a bad datagram has had an effect"
        self.do(effects)

    def _answer(self, data: bytes) -> None:
        before, bad = self._state(), self._bad()
        reply, effects = self.core.receive_request(data, now=self.now)
        assert (reply is None) == (self._bad() > bad)
        if reply is None:
            assert self._state() == before, "a bad request has changed something"
            assert effects == [], "a bad request has had an effect"
        else:
            CODEC.decode_stream_untrusted(reply)
        self.do(effects)

    def _reply(self, choices: Choices) -> None:
        token = choices.one(self._tokens) if self._tokens else 0
        if choices.below(8) == 7:
            refused = bool(choices.below(2))
            self.do(self.core.request_failed(token, refused=refused, now=self.now))
            return
        data = CODEC.encode_stream(any_of(Stream, choices))
        if choices.below(8) == 7:
            data = _damaged(data, choices)
        self.do(self.core.receive_reply(token, data, now=self.now))

    def _outside(self, choices: Choices) -> None:
        refused = bool(choices.below(2))
        match choices.below(4):
            case 0:
                self.do(self.core.refused(choices.one(_ADDRESSES), now=self.now))
            case 1:
                node = NodeId(choices.one(NODES))
                self.do(self.core.watch_broken(node, refused=refused, now=self.now))
            case 2:
                self.do(self.core.join([choices.one(_ADDRESSES)], now=self.now))
            case 3:
                if choices.below(4) == 3:
                    self.leave()

    def leave(self) -> None:
        """The operator stops us."""
        self._left = True
        self.do(self.core.leave(now=self.now))

    def _engine(self, choices: Choices) -> None:
        number = choices.below(len(DIGESTS))
        if choices.below(2):
            self.do(self.core.release([Digest(DIGESTS[number])], now=self.now))
        else:
            self.hold(number)

    def hold(self, number: int) -> None:
        """Our engine has an image now."""
        held, described = [_holding(number)], [_description(number)]
        self.do(self.core.hold(held, described, now=self.now))

    # --- what must be true

    def _state(self) -> object:
        core = self.core
        members = list(core.members.all())
        held = [
            (m.node, core.possession.version(m.node), core.possession.holdings(m.node))
            for m in members
        ]
        return members, held, core.members.state_hash, core.local_health, core.next_deadline()

    def _bad(self) -> int:
        return sum(self.core.counters[name] for name in _BAD)

    def do(self, effects: list[Effect]) -> None:
        """Take the core's effects as its driver does, and check them."""
        for effect in effects:
            match effect:
                case SendDatagram(data=data) | Broadcast(data=data):
                    assert len(data) <= DATAGRAM_BYTES_MAX
                    message = CODEC.decode_datagram_untrusted(data)
                    news = getattr(message, "news", ())
                    assert len(CODEC.decode_news_untrusted(news)) == len(news)
                case SendRequest(data=data, token=token):
                    CODEC.decode_stream_untrusted(data)
                    self._tokens = [*self._tokens[-7:], token]
                case HoldingsChanged():
                    self._record_holdings(effect)
                case ImageDescribed(description=description):
                    self._described.add(description.image)
                    # What the store and JSON can take.
                    sizes = [layer.size_bytes for layer in description.layers]
                    assert all(0 <= size <= INT64_MAX for size in (*sizes, sum(sizes)))
                case ImageForgotten(image=image):
                    self._described.discard(image)
                case MemberForgotten(node=node):
                    self._rows.pop(node, None)
            if not isinstance(effect, SendDatagram | Broadcast | SendRequest):
                self.found.append(effect)
        own = self.core.own
        assert (own.node, own.name, own.address) == (OWN, "own", OWN_ADDRESS)
        assert own.status == (Status.LEFT if self._left else Status.ALIVE)

    def _record_holdings(self, change: HoldingsChanged) -> None:
        rows = self._rows.setdefault(change.owner, set())
        if change.reset:
            rows.clear()
        rows |= {holding.image for holding in change.held}
        rows -= set(change.released)

    def _check_tables(self) -> None:
        core = self.core
        members = list(core.members.all())
        assert core.members.state_hash == sum(core.members.entry(m.node) for m in members) % 2**63
        for member in members:
            held = {holding.image for holding in core.possession.holdings(member.node)}
            assert self._rows.get(member.node, set()) == held, "the store would say another thing"
            assert all(core.possession.is_held(image) for image in held)
        for image in DIGESTS:
            digest = Digest(image)
            assert core.possession.is_held(digest) == bool(core.possession.holders(digest))
            assert (core.descriptions.get(digest) is not None) == (digest in self._described)


def _holding(number: int) -> Holding:
    return Holding(Digest(DIGESTS[number]), (f"image-{number}:1",))


def _description(number: int) -> ImageDescription:
    layers = tuple(
        LayerDescription(Digest(digest), 1000) for digest in DIGESTS[number : number + 3]
    )
    return ImageDescription(Digest(DIGESTS[number]), "linux", "amd64", "", layers)


def _damaged(data: bytes, choices: Choices) -> bytes:
    """``data`` with one byte changed, or cut off, or with more behind it."""
    at = int.from_bytes(choices.take(2), "big") % len(data)
    match choices.below(3):
        case 0:
            return data[:at] + choices.take(1) + data[at + 1 :]
        case 1:
            return data[:at]
        case _:
            return data[:at] + choices.chunk() + data[at:]


def _deflated_head() -> bytes:
    return MAGIC_DEFLATED + _HEAD[2:]
