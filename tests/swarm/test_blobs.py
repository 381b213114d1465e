"""What one node answers about blobs that it wants or has, message by message."""

from random import Random

import pytest

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import NEIGHBOURS_MAX, PIECE_BYTES_SMALL, SwarmConfig
from beiran.swarm.effects import BlobComplete, Effect, FetchFromOrigin, SendDatagram
from beiran.swarm.messages import (
    Grant,
    HashesWanted,
    Have,
    LeaseReport,
    LeaseState,
    Leave,
    Message,
    Participants,
    PieceHash,
)
from beiran.swarm.node import BlobWanted, SwarmNode

CODEC = SwarmCodec("default")
OWN = NodeId(b"o" * 16)
PEERS = [NodeId(bytes([n]) * 16) for n in range(NEIGHBOURS_MAX + 3)]
AT = {node: Address(f"10.0.0.{node[0] + 1}", 8888) for node in PEERS}
BLOB = Digest(b"b" * 32)
SIZE = 2 * PIECE_BYTES_SMALL
HASHES = (b"0" * 32, b"1" * 32)


@pytest.fixture
def node() -> SwarmNode:
    node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members(AT, now=0.0)
    return node


def tell(node: SwarmNode, message: Message, *, now: float = 0.1) -> list[Effect]:
    return node.receive_datagram(CODEC.encode(message), AT[message.sender], now=now)


def answers(effects: list[Effect], to: NodeId) -> list[Message]:
    sent = [e for e in effects if isinstance(e, SendDatagram) and e.to == AT[to]]
    return [CODEC.decode_untrusted(each.data) for each in sent]


def have(sender: NodeId, held: bytes = b"\x03", *, asks: bool = False) -> Have:
    return Have(sender, BLOB, SIZE, held, asks, True, 0)


def pull_alone(node: SwarmNode) -> None:
    """It has the blob whole, from the origin, and verified."""
    node.want(BlobWanted(BLOB, SIZE, True), now=0.0)
    effects = tell(node, Grant(PEERS[0], BLOB, 5, 0, 2))
    fetch = next(e for e in effects if isinstance(e, FetchFromOrigin))
    for piece, hash in enumerate(HASHES):
        accepted, effects = node.piece_arrived(fetch.fetch, piece, hash, now=0.2)
        assert accepted
    assert BlobComplete(BLOB) in effects
    node.fetch_done(fetch.fetch, now=0.2)
    node.verified(BLOB, now=0.3)


def wanted(piece_bits: bytes = b"\x03") -> HashesWanted:
    return HashesWanted(PEERS[1], BLOB, SIZE, piece_bits)


def test_who_has_the_whole_verified_vouches_for_every_hash(node: SwarmNode) -> None:
    pull_alone(node)
    (answer,) = answers(tell(node, wanted(), now=0.4), PEERS[1])
    assert isinstance(answer, Have)
    assert answer.hashes == (PieceHash(0, b"0" * 16, True), PieceHash(1, b"1" * 16, True))


def test_hashes_handed_over_with_a_blob_are_vouched_for(node: SwarmNode) -> None:
    node.provide(BLOB, SIZE, now=0.0, hashes=HASHES)
    node.provide(BLOB, SIZE, now=0.0)  # who knows them no more does not make us forget them
    (answer,) = answers(tell(node, wanted(b"\x02")), PEERS[1])
    assert isinstance(answer, Have)
    assert answer.hashes == (PieceHash(1, b"1" * 16, True),)
    assert not answer.hashless


def test_too_few_hashes_are_none(node: SwarmNode) -> None:
    node.provide(BLOB, SIZE, now=0.0, hashes=HASHES[:1])
    (answer,) = answers(tell(node, wanted()), PEERS[1])
    assert isinstance(answer, Have)
    assert answer.hashless
    assert answer.hashes == ()


def test_of_a_blob_that_is_neither_wanted_nor_had_nothing_is_said(node: SwarmNode) -> None:
    assert tell(node, wanted()) == []
    assert node.prefix_from_origin_bytes(BLOB) == 0
    assert node.verified(BLOB, now=0.1) == []
    assert node.withdraw(BLOB, now=0.1) == []
    assert node.drop(BLOB, now=0.1) == []


def test_a_blob_cannot_be_wanted_in_two_sizes(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, True), now=0.0)
    with pytest.raises(ValueError, match="another size"):
        node.want(BlobWanted(BLOB, SIZE + 1, True), now=0.0)


def test_all_from_the_origin_is_prefix_until_the_blob_is_forgotten(node: SwarmNode) -> None:
    pull_alone(node)
    assert node.prefix_from_origin_bytes(BLOB) == SIZE


def test_a_blob_withdrawn_soon_after_it_came_is_had_no_more(node: SwarmNode) -> None:
    pull_alone(node)
    tell(node, have(PEERS[1], b"", asks=True))
    effects = node.withdraw(BLOB, now=1.0)
    messages = [m for peer in PEERS for m in answers(effects, peer)]
    assert any(isinstance(message, Leave) for message in messages)
    assert node.progress(BLOB) is None


def test_pieces_of_an_earlier_life_that_there_are_not_are_ignored(node: SwarmNode) -> None:
    held = dict(enumerate(HASHES)) | {7: b"7" * 32}
    effects = node.want(BlobWanted(BLOB, SIZE, True), now=0.0, pieces_held=held)
    assert BlobComplete(BLOB) in effects


def test_more_neighbours_than_are_kept_are_not_listened_to(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, False), now=0.0)
    for peer in PEERS[:NEIGHBOURS_MAX]:
        tell(node, have(peer, b""))
    assert answers(tell(node, have(PEERS[-1], asks=True)), PEERS[-1]) == []


def test_who_was_never_heard_makes_room_for_who_speaks(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, False, sources=(PEERS[0],)), now=0.0)
    for peer in PEERS[1 : NEIGHBOURS_MAX + 1]:
        tell(node, have(peer, b""))
    (answer,) = answers(tell(node, have(PEERS[NEIGHBOURS_MAX], b"", asks=True)), PEERS[-3])
    assert isinstance(answer, Have)
    late = tell(node, have(PEERS[-2], b"", asks=True))
    assert answers(late, PEERS[-2]) == []  # all that are kept have spoken


def test_nobody_more_is_met_when_there_are_enough(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, False), now=0.0)
    registered = node._downloads[BLOB].registration
    for peer in PEERS[:NEIGHBOURS_MAX]:
        tell(node, have(peer, b""))
    rendezvous = registered.rendezvous
    assert rendezvous != OWN
    stranger, seed = PEERS[-1], PEERS[-2]
    news = Participants(
        rendezvous, BLOB, registered.number, 40, True, False, True, (stranger,), (seed,)
    )
    effects = tell(node, news)
    assert answers(effects, stranger) == []
    assert len(answers(effects, seed)) == 1


def test_a_lease_of_a_blob_that_is_dropped_meanwhile_is_given_back(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, True), now=0.0)
    tell(node, Grant(PEERS[0], BLOB, 5, 0, 2))
    reports = [m for m in answers(node.drop(BLOB, now=0.2), PEERS[0]) if isinstance(m, LeaseReport)]
    assert [report.state for report in reports] == [LeaseState.FAILED]
    late = answers(tell(node, Grant(PEERS[0], BLOB, 6, 0, 1)), PEERS[0])
    assert [m.state for m in late if isinstance(m, LeaseReport)] == [LeaseState.FAILED]
