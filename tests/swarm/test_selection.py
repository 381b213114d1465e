"""Which peer is asked next, and for which piece."""

from random import Random

import pytest

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import PIECE_BYTES_SMALL, SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import HASH_REQUESTS_MAX, Download, Neighbour
from beiran.swarm.pieces import cut
from beiran.swarm.selection import UNREACHABLE_FAILURES, Choice, Peers, Picker

OWN, A, B, C = (NodeId(bytes([n]) * 16) for n in range(4))
ROOM = 6


class Picking:
    """One download of four pieces with three neighbours, and what would be fetched next."""

    def __init__(self) -> None:
        self.context = Context(OWN, SwarmConfig(), SwarmCodec("default"), Random(1), 0.0)
        self.context.members = {n: Address(f"10.0.0.{n[0]}", 8888) for n in (A, B, C)}
        self.peers = Peers(self.context.config, self.context.random)
        self.picker = Picker(self.context, self.peers)
        self.download = self.wanted(b"1", rank=0)
        for node, held in ((A, 0b1111), (B, 0b0111), (C, 0b0011)):
            self.has(self.download, node, held)

    def wanted(self, name: bytes, rank: int) -> Download:
        return Download(Digest(name * 32), cut(4 * PIECE_BYTES_SMALL), rank, OWN)

    def has(self, download: Download, node: NodeId, held: int) -> None:
        """A neighbour announces pieces, and that it does not know their hashes."""
        neighbour = download.add(Neighbour(node))
        neighbour.hear(held=held, interested=True, hashes_unknown=True)
        download.set_held(neighbour, held)

    def next(self) -> Choice | None:
        return self.picker.next([self.download], ROOM)

    def node(self) -> NodeId | None:
        choice = self.next()
        return choice.neighbour.node if choice else None


@pytest.fixture
def picking() -> Picking:
    return Picking()


def test_the_peer_with_the_fewest_uploads_is_asked_first(picking: Picking) -> None:
    for node, uploads in ((A, 3), (B, 1), (C, 2)):
        picking.peers.note_load(node, uploads)
    assert picking.node() == B


def test_the_rarest_piece_of_a_peer_is_fetched_first(picking: Picking) -> None:
    picking.peers.note_load(B, 1)
    picking.peers.note_load(C, 1)
    choice = picking.next()
    assert choice is not None
    assert (choice.neighbour.node, choice.piece) == (A, 3)


def test_equally_rare_pieces_are_drawn_at_random(picking: Picking) -> None:
    for node in (A, B):
        picking.peers.note_load(node, 1)
    choices = [picking.next() for _ in range(50)]
    assert {choice.piece for choice in choices if choice is not None} == {0, 1}


def test_pieces_in_flight_and_pieces_for_the_origin_are_left_out(picking: Picking) -> None:
    picking.download.begin_fetch(0b0111)
    picking.download.evidence.set_refetch(0b1000)
    assert picking.next() is None


def test_the_next_download_comes_when_no_peer_has_the_first(picking: Picking) -> None:
    first, second = picking.wanted(b"0", 0), picking.download
    choice = picking.picker.next([first, second], ROOM)
    assert choice is not None
    assert choice.download is second


def test_each_peer_has_its_share_of_the_fetches(picking: Picking) -> None:
    for _ in range(ROOM // 3):
        for node in (A, B, C):
            assert picking.node() is not None
            picking.peers.begin_fetch(node)
    assert picking.node() is None
    picking.peers.end_fetch(C)
    assert picking.node() == C


def test_a_slow_peer_is_asked_last_and_for_one_piece(picking: Picking) -> None:
    picking.peers.slow(A, 0.0)
    for node in (B, C):
        picking.peers.note_load(node, 9)
    assert picking.node() in (B, C)
    picking.download.begin_fetch(0b0111)
    assert picking.node() == A
    picking.peers.begin_fetch(A)
    assert picking.node() is None
    assert picking.peers.is_slow(A, 4.9)
    assert not picking.peers.is_slow(A, 5.1)


def test_a_busy_peer_is_not_asked_for_a_moment(picking: Picking) -> None:
    for node in (B, C):
        picking.download.remove(node)
    again_at = picking.peers.busy(A, 0.0)
    assert 0.0 < again_at < 0.2
    assert picking.node() is None
    picking.context.now = again_at
    assert picking.node() == A


def test_a_piece_whose_hash_was_not_announced_waits_for_it(picking: Picking) -> None:
    neighbour = Neighbour(A)
    download = picking.wanted(b"2", 0)
    download.set_held(download.add(neighbour), 0b1111)
    assert picking.picker.next([download], ROOM) is None
    neighbour.claim(2, b"h" * 16, first_hand=False)
    choice = picking.picker.next([download], ROOM)
    assert choice is not None
    assert choice.piece == 2
    for _ in range(HASH_REQUESTS_MAX):
        neighbour.note_hash_request(0.0, last_was_useful=False)
    assert neighbour.requestable == 0b1111


def test_a_peer_that_fails_again_and_again_is_no_source_until_it_serves() -> None:
    peers = Peers(SwarmConfig(), Random(1))
    pauses = [peers.failed(A, 0.0) for _ in range(UNREACHABLE_FAILURES)]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert peers.is_unreachable(A)
    assert not peers.is_good(A, 100.0)
    peers.served(A)
    assert peers.is_good(A, 100.0)


def test_a_peer_that_was_slow_twice_is_no_good_source_for_a_while() -> None:
    peers = Peers(SwarmConfig(), Random(1))
    peers.slow(A, 0.0)
    assert peers.is_good(A, 1.0)
    peers.slow(A, 1.0)
    assert not peers.is_good(A, 10.9)
    assert peers.is_good(A, 11.1)
    peers.forget(A)
    assert peers.is_good(A, 1.0)
