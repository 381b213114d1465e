"""How bans begin and end."""

from dataclasses import dataclass, field
from random import Random

import pytest

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.context import BanEnds, Context
from beiran.swarm.effects import (
    Effect,
    FetchFromPeer,
    PeerUnbanned,
    SendDatagram,
)
from beiran.swarm.integrity.bans import DOUBLINGS_MAX, BanList
from beiran.swarm.messages import Have, PieceHash
from beiran.swarm.node import BlobWanted, SwarmNode

CODEC = SwarmCodec("default")
OWN, PEER = NodeId(b"o" * 16), NodeId(b"p" * 16)
AT = Address("10.0.0.2", 8888)
BLOB = Digest(b"b" * 32)
SIZE = 1024 * 1024


@dataclass
class Pair:
    """A node that wants a blob, and a peer that sends other bytes than it announces."""

    node: SwarmNode
    effects: list[Effect] = field(default_factory=list)

    def catch(self, now: float) -> None:
        """The peer is asked for a piece, sends a wrong one, and confirms its claim."""
        fetch = self.asked(now)
        self.node.piece_arrived(fetch.fetch, fetch.first_piece, b"w" * 32, now=now)
        self.node.fetch_done(fetch.fetch, now=now)
        self.node.receive_datagram(CODEC.encode(have((0, 1))), AT, now=now)
        assert PEER in self.node.banned

    def asked(self, now: float) -> FetchFromPeer:
        """What the node fetches from the peer once that announces everything."""
        effects = self.node.receive_datagram(CODEC.encode(have((0, 1))), AT, now=now)
        return next(e for e in effects if isinstance(e, FetchFromPeer))


def have(pieces: tuple[int, ...]) -> Have:
    hashes = tuple(PieceHash(piece, b"r" * 16) for piece in pieces)
    return Have(PEER, BLOB, SIZE, b"\x03", False, False, 0, hashes)


@pytest.fixture
def pair() -> Pair:
    config = SwarmConfig(ban_s=100.0)
    node = SwarmNode(OWN, cluster="default", config=config, random=Random(1), now=0.0)
    node.set_members({PEER: AT}, now=0.0, generations={PEER: 7})
    node.want(BlobWanted(BLOB, SIZE, False, sources=(PEER,)), now=0.0)
    return Pair(node)


def advance(node: SwarmNode, until: float) -> list[Effect]:
    effects: list[Effect] = []
    while (deadline := node.next_deadline()) is not None and deadline <= until:
        effects += node.advance(now=deadline)
    return effects


def test_a_ban_ends_after_its_time_and_the_peer_is_asked_again(pair: Pair) -> None:
    pair.catch(1.0)
    assert PeerUnbanned(PEER) not in advance(pair.node, 100.0)
    effects = advance(pair.node, 101.5)
    assert PeerUnbanned(PEER) in effects
    assert any(isinstance(e, SendDatagram) and e.to == AT for e in effects)
    assert pair.asked(102.0).node == PEER


def test_a_second_ban_lasts_twice_as_long(pair: Pair) -> None:
    pair.catch(1.0)
    advance(pair.node, 102.0)
    pair.catch(103.0)
    advance(pair.node, 302.0)
    assert PEER in pair.node.banned
    advance(pair.node, 304.0)
    assert PEER not in pair.node.banned


def test_a_restarted_agent_is_not_banned_any_more(pair: Pair) -> None:
    pair.catch(1.0)
    same = pair.node.set_members({PEER: AT}, now=2.0, generations={PEER: 7})
    assert PeerUnbanned(PEER) not in same
    effects = pair.node.set_members({PEER: AT}, now=3.0, generations={PEER: 8})
    assert PeerUnbanned(PEER) in effects
    assert not pair.node.banned
    assert pair.asked(4.0).node == PEER


def test_being_away_for_a_moment_does_not_end_a_ban(pair: Pair) -> None:
    pair.catch(1.0)
    pair.node.set_members({}, now=2.0)
    pair.node.set_members({PEER: AT}, now=3.0, generations={PEER: 7})
    assert PEER in pair.node.banned


@pytest.fixture
def bans() -> BanList:
    context = Context(OWN, SwarmConfig(ban_s=10.0), CODEC, Random(1), 0.0)
    context.members = {PEER: AT}
    return BanList(context)


def ban_s(bans: BanList) -> float:
    """Ban, and return for how long."""
    bans.ban(PEER, "a reason")
    deadline = bans._context.timers.deadline(BanEnds(PEER))
    assert deadline is not None
    return deadline


def test_bans_double_up_to_a_limit_and_are_forgotten_with_the_member(bans: BanList) -> None:
    for before in range(DOUBLINGS_MAX + 3):
        assert ban_s(bans) == 10.0 * 2 ** min(before, DOUBLINGS_MAX)
        bans.set_members({PEER: 9})  # its generation at the time of the ban is not known
        if before == 0:
            assert PEER in bans.reasons
        bans.lift(PEER)
        bans.set_members({})
    assert ban_s(bans) > 10.0
    bans._context.members = {}
    bans.set_members({})
    assert PEER in bans.reasons  # not forgotten while it is banned
    bans.lift(PEER)
    bans.set_members({})
    bans._context.members = {PEER: AT}
    assert ban_s(bans) == 10.0


def test_banning_a_banned_peer_has_no_effect(bans: BanList) -> None:
    assert ban_s(bans) == ban_s(bans)
    assert len(bans._context.take_effects()) == 1
    changes = bans.take_changes()
    assert changes is not None
    assert (changes.banned, changes.unbanned) == ([PEER], [])
    assert bans.take_changes() is None


def test_lifting_a_ban_that_does_not_exist_has_no_effect(bans: BanList) -> None:
    bans.lift(PEER)
    assert not bans._context.take_effects()
    assert bans.take_changes() is None
