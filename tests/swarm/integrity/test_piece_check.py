"""Which pieces are accepted, whose claims count, and which peers are to blame."""

from random import Random

import pytest

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import PIECE_BYTES_SMALL, SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.integrity.bans import BanList
from beiran.swarm.integrity.piece_check import (
    CONTRADICTIONS_MAX,
    DISCREDITED_MIN,
    DISCREDITED_SHARES,
    OUTVOTED_MAX,
    Checker,
    Verdict,
)
from beiran.swarm.pieces import cut

OWN, A, B, C = (NodeId(bytes([n]) * 16) for n in range(4))
GONE = NodeId(b"g" * 16)
RIGHT, WRONG = b"r" * 16, b"w" * 16
PIECES = 8


@pytest.fixture
def bans() -> BanList:
    context = Context(OWN, SwarmConfig(), SwarmCodec("default"), Random(1), 0.0)
    context.members = {node: Address(f"10.0.0.{node[0]}", 8888) for node in (A, B, C)}
    return BanList(context)


@pytest.fixture
def download() -> Download:
    download = Download(Digest(bytes(32)), cut(PIECES * PIECE_BYTES_SMALL), 0, OWN)
    for node in (A, B, C):
        neighbour = download.add(Neighbour(node, heard_from=True))
        download.set_held(neighbour, download.pieces.all)
    return download


def hear(
    checker: Checker,
    download: Download,
    node: NodeId,
    piece: int,
    hash: bytes,
    *,
    first_hand: bool = False,
) -> None:
    checker.on_claim(download, download.neighbours[node], piece, hash, first_hand=first_hand)


def from_origin(checker: Checker, download: Download, piece: int, hash: bytes) -> None:
    download.accept(piece, hash, None)
    checker.on_origin_piece(download, piece, hash)


def accept(download: Download, piece: int, hash: bytes, supplier: NodeId) -> None:
    download.restore({piece: hash})
    download.suppliers[piece] = supplier


def test_a_piece_that_matches_its_suppliers_claim_is_accepted(
    bans: BanList, download: Download
) -> None:
    download.neighbours[A].claim(0, RIGHT, first_hand=False)
    checker = Checker(bans)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.ACCEPT
    assert not bans.reasons


def test_a_peer_that_confirms_a_mismatched_claim_is_banned(
    bans: BanList, download: Download
) -> None:
    download.neighbours[A].claim(0, RIGHT, first_hand=False)
    checker = Checker(bans)
    assert checker.judge(download, A, 0, WRONG, mixed=False) is Verdict.REFETCH
    assert not download.neighbours[A].requestable & 1  # until it confirms or replaces the claim
    hear(checker, download, A, 0, RIGHT)
    assert list(bans.reasons) == [A]


def test_a_peer_that_replaces_a_mismatched_claim_is_not_banned(
    bans: BanList, download: Download
) -> None:
    download.neighbours[A].claim(0, WRONG, first_hand=False)
    checker = Checker(bans)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.REFETCH
    hear(checker, download, A, 0, RIGHT)
    hear(checker, download, A, 0, WRONG)
    assert not bans.reasons


def test_no_peer_is_blamed_for_a_piece_from_several(bans: BanList, download: Download) -> None:
    download.neighbours[A].claim(0, RIGHT, first_hand=False)
    download.neighbours[B].claim(1, RIGHT, first_hand=False)
    checker = Checker(bans)
    assert checker.judge(download, A, 0, WRONG, mixed=True) is Verdict.REFETCH
    assert checker.judge(download, A, 1, WRONG, mixed=True) is Verdict.REFETCH
    assert not bans.reasons


def test_without_any_claim_a_piece_is_accepted(bans: BanList, download: Download) -> None:
    assert Checker(bans).judge(download, A, 0, WRONG, mixed=False) is Verdict.ACCEPT
    assert Checker(bans).judge(download, GONE, 0, WRONG, mixed=False) is Verdict.ACCEPT


def test_a_peer_that_contradicts_others_too_often_is_banned(
    bans: BanList, download: Download
) -> None:
    checker = Checker(bans)
    for piece in range(CONTRADICTIONS_MAX + 1):
        download.neighbours[B].claim(piece, RIGHT, first_hand=False)
        download.neighbours[C].claim(piece, RIGHT, first_hand=False)
        assert A not in bans.reasons
        assert checker.judge(download, A, piece, WRONG, mixed=False) is Verdict.REFETCH
    assert list(bans.reasons) == [A]
    assert download.availability[0] == 2


def test_a_third_peer_settles_one_claim_against_anothers_bytes(
    bans: BanList, download: Download
) -> None:
    download.neighbours[B].claim(0, WRONG, first_hand=False)
    checker = Checker(bans)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.REFETCH
    assert checker.judge(download, C, 0, RIGHT, mixed=False) is Verdict.ACCEPT
    assert not bans.reasons


def test_a_false_first_hand_claim_is_refuted_by_the_origin(
    bans: BanList, download: Download
) -> None:
    checker = Checker(bans)
    hear(checker, download, A, 0, WRONG, first_hand=True)
    hear(checker, download, B, 0, WRONG)
    hear(checker, download, C, 0, RIGHT, first_hand=True)
    from_origin(checker, download, 0, RIGHT)
    assert list(bans.reasons) == [A]
    assert not download.neighbours[B].usable & 1
    assert download.neighbours[C].usable & 1


def test_a_false_first_hand_claim_after_the_origins_piece_is_refuted(
    bans: BanList, download: Download
) -> None:
    checker = Checker(bans)
    from_origin(checker, download, 0, RIGHT)
    hear(checker, download, A, 0, WRONG, first_hand=True)
    hear(checker, download, B, 0, WRONG)
    assert list(bans.reasons) == [A]


def test_first_hand_claims_outweigh_second_hand_claims(bans: BanList, download: Download) -> None:
    checker = Checker(bans)
    hear(checker, download, A, 0, WRONG)
    hear(checker, download, B, 0, WRONG)
    assert download.neighbours[A].requestable & 1
    hear(checker, download, C, 0, RIGHT, first_hand=True)
    assert not (download.neighbours[A].requestable | download.neighbours[B].requestable) & 1
    assert checker.claims(download, 0) == [RIGHT]
    assert checker.judge(download, A, 0, WRONG, mixed=False) is Verdict.REFETCH
    assert not bans.reasons  # they may have been deceived
    assert download.availability[0] == 1
    hear(checker, download, A, 0, RIGHT)
    assert download.neighbours[A].requestable & 1


def test_a_peer_refuted_at_second_hand_is_a_suspect(bans: BanList, download: Download) -> None:
    checker = Checker(bans)
    for piece in range(OUTVOTED_MAX + 1):
        assert not download.evidence.suspects
        from_origin(checker, download, piece, RIGHT)
        hear(checker, download, A, piece, WRONG)
        hear(checker, download, A, piece, WRONG)  # once more the same
    assert list(download.evidence.suspects) == [A]
    assert not bans.reasons


def test_a_peer_outvoted_on_several_pieces_is_a_suspect(bans: BanList, download: Download) -> None:
    checker = Checker(bans)
    for piece in range(OUTVOTED_MAX + 1):
        assert not download.evidence.suspects
        hear(checker, download, A, piece, WRONG)
        hear(checker, download, B, piece, RIGHT)
        hear(checker, download, C, piece, RIGHT)
    assert list(download.evidence.suspects) == [A]
    hear(checker, download, A, 0, RIGHT)
    assert download.neighbours[A].outvoted == 0b10


def test_pieces_that_only_a_banned_peer_vouched_for_are_unsupported(
    bans: BanList, download: Download
) -> None:
    checker = Checker(bans)
    for piece in range(4):
        hear(checker, download, A, piece, WRONG, first_hand=piece < 3)
        accept(download, piece, WRONG, B)
        hear(checker, download, B, piece, WRONG)
    hear(checker, download, C, 1, WRONG, first_hand=True)  # another peer vouches for it
    from_origin(checker, download, 2, WRONG)  # and this node for this one
    hear(checker, download, A, 7, WRONG)
    from_origin(checker, download, 7, RIGHT)
    bans.ban(A, "for a test")
    checker.discredit(download, download.neighbours[A])
    assert download.evidence.unsupported == 0b0001
    download.ban(download.neighbours[A])
    checker.weigh_again(download)
    assert not download.neighbours[B].requestable & 1  # it repeats the hash
    assert download.neighbours[B].requestable & 2
    assert checker.judge(download, GONE, 0, WRONG, mixed=False) is Verdict.REFETCH


def test_pieces_that_a_banned_peer_gave_are_unsupported(bans: BanList, download: Download) -> None:
    checker = Checker(bans)
    hear(checker, download, A, 0, WRONG)
    accept(download, 0, WRONG, A)
    hear(checker, download, A, 7, WRONG)
    from_origin(checker, download, 7, RIGHT)
    bans.ban(A, "for a test")
    checker.discredit(download, download.neighbours[A])
    assert download.evidence.unsupported == 1


def test_pieces_are_kept_whose_claims_were_never_contradicted(
    bans: BanList, download: Download
) -> None:
    checker = Checker(bans)
    for piece in range(3):
        hear(checker, download, A, piece, RIGHT, first_hand=True)
        accept(download, piece, RIGHT, A)
    hear(checker, download, A, 3, RIGHT)
    assert checker.judge(download, A, 3, WRONG, mixed=False) is Verdict.REFETCH
    hear(checker, download, A, 3, RIGHT)
    assert list(bans.reasons) == [A]
    checker.discredit(download, download.neighbours[A])
    hear(checker, download, A, 2, RIGHT, first_hand=True)
    assert not download.evidence.unsupported


def test_a_banned_peer_cannot_discredit_the_whole_blob(bans: BanList) -> None:
    pieces = cut(400 * 512 * 1024)
    download = Download(Digest(bytes(32)), pieces, 0, OWN)
    download.registration.count = 100
    banned = download.add(Neighbour(A, heard_from=True))
    checker = Checker(bans)
    from_origin(checker, download, 0, RIGHT)
    hear(checker, download, A, 0, WRONG, first_hand=True)
    assert list(bans.reasons) == [A]
    for piece in range(1, pieces.count):
        accept(download, piece, RIGHT, B)
        checker.on_claim(download, banned, piece, RIGHT, first_hand=True)
    assert (
        download.evidence.unsupported.bit_count()
        == DISCREDITED_MIN + DISCREDITED_SHARES * pieces.count // 100
    )


def test_a_replaced_claim_readmits_a_neighbour_once(bans: BanList, download: Download) -> None:
    checker, neighbour = Checker(bans), download.neighbours[A]
    hear(checker, download, A, 0, WRONG)
    download.exclude(neighbour, 1)  # it gave a piece that was revoked
    hear(checker, download, A, 0, RIGHT)
    assert neighbour.usable & 1
    assert download.availability[0] == 3
    download.exclude(neighbour, 1)
    hear(checker, download, A, 0, WRONG)
    assert not neighbour.usable & 1


def test_suspicion_widens_from_conflicts_to_everything(bans: BanList, download: Download) -> None:
    checker = Checker(bans)
    for piece in range(6):
        accept(download, piece, RIGHT, B)
    from_origin(checker, download, 0, RIGHT)
    hear(checker, download, A, 0, RIGHT, first_hand=True)
    hear(checker, download, A, 2, WRONG)
    hear(checker, download, B, 3, RIGHT, first_hand=True)
    hear(checker, download, B, 4, RIGHT, first_hand=True)
    download.times_damaged = 1
    assert checker.suspect_pieces(download) == 0b000100
    download.origin.offer(0.0)  # so that an audit is possible
    assert checker.suspect_pieces(download) == 0b001100
    download.suppliers[5] = C
    bans.ban(C, "for a test")
    assert checker.suspect_pieces(download) == 0b101100
    download.evidence.unsupported = 0b000010
    assert checker.suspect_pieces(download) == 0b101110
    download.times_damaged = 2
    assert checker.suspect_pieces(download) == 0b100110  # no first hand vouches for these
    download.times_damaged = 3
    assert checker.suspect_pieces(download) == 0b111110
    download.first_hand = 0b111111
    assert checker.suspect_pieces(download) == 0
