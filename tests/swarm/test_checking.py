"""Which pieces are accepted, and whose word is doubted."""

from random import Random

import pytest

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import PIECE_BYTES_SMALL, SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour, Registration
from beiran.swarm.integrity.piece_check import (
    CONTRADICTIONS_MAX,
    OUTVOTED_MAX,
    TAINTED_MIN,
    TAINTED_SHARES,
    Checker,
    Verdict,
)
from beiran.swarm.pieces import cut

OWN, A, B, C = (NodeId(bytes([n]) * 16) for n in range(4))
RIGHT, WRONG = b"r" * 16, b"w" * 16
PIECES = 8


@pytest.fixture
def context() -> Context:
    context = Context(OWN, SwarmConfig(), SwarmCodec("default"), Random(1), 0.0)
    context.members = {node: Address(f"10.0.0.{node[0]}", 8888) for node in (A, B, C)}
    return context


@pytest.fixture
def download() -> Download:
    download = Download(Digest(bytes(32)), cut(PIECES * PIECE_BYTES_SMALL), 0, Registration(OWN))
    for node in (A, B, C):
        neighbour = download.neighbours[node] = Neighbour(node, heard=True)
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
    checker.heard(download, download.neighbours[node], piece, hash, first_hand)


def from_origin(checker: Checker, download: Download, piece: int, hash: bytes) -> None:
    download.held |= 1 << piece
    download.first_hand |= 1 << piece
    download.hashes[piece] = hash
    checker.from_origin(download, piece, hash)


def accept(download: Download, piece: int, hash: bytes, giver: NodeId) -> None:
    download.held |= 1 << piece
    download.hashes[piece] = hash
    download.givers[piece] = giver


def test_what_hashes_to_its_givers_claim_is_accepted(context: Context, download: Download) -> None:
    download.neighbours[A].claim(0, RIGHT, False)
    checker = Checker(context)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.ACCEPT
    assert not context.distrusted


def test_who_stands_by_a_word_that_its_bytes_broke_is_distrusted(
    context: Context, download: Download
) -> None:
    download.neighbours[A].claim(0, RIGHT, False)
    checker = Checker(context)
    assert checker.judge(download, A, 0, WRONG, mixed=False) is Verdict.REFETCH
    assert not download.neighbours[A].ready & 1  # until it has said what it stands by
    checker.heard(download, download.neighbours[A], 0, RIGHT, False)
    assert list(context.distrusted) == [A]


def test_who_found_out_meanwhile_that_it_was_fooled_is_not(
    context: Context, download: Download
) -> None:
    download.neighbours[A].claim(0, WRONG, False)
    checker = Checker(context)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.REFETCH
    checker.heard(download, download.neighbours[A], 0, RIGHT, False)
    checker.heard(download, download.neighbours[A], 0, WRONG, False)
    assert not context.distrusted


def test_nobody_is_blamed_for_a_piece_that_several_gave(
    context: Context, download: Download
) -> None:
    download.neighbours[A].claim(0, RIGHT, False)
    download.neighbours[B].claim(1, RIGHT, False)
    checker = Checker(context)
    assert checker.judge(download, A, 0, WRONG, mixed=True) is Verdict.REFETCH
    assert checker.judge(download, A, 1, WRONG, mixed=True) is Verdict.REFETCH
    assert not context.distrusted


def test_without_any_claim_a_piece_is_accepted(context: Context, download: Download) -> None:
    assert Checker(context).judge(download, A, 0, WRONG, mixed=False) is Verdict.ACCEPT
    assert Checker(context).judge(download, None, 0, WRONG, mixed=False) is Verdict.ACCEPT


def test_who_contradicts_several_others_again_and_again_is_distrusted(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    for piece in range(CONTRADICTIONS_MAX + 1):
        download.neighbours[B].claim(piece, RIGHT, False)
        download.neighbours[C].claim(piece, RIGHT, False)
        assert A not in context.distrusted
        assert checker.judge(download, A, piece, WRONG, mixed=False) is Verdict.REFETCH
    assert list(context.distrusted) == [A]
    assert download.availability[0] == 2


def test_one_others_word_against_anothers_bytes_is_settled_by_a_third(
    context: Context, download: Download
) -> None:
    download.neighbours[B].claim(0, WRONG, False)
    checker = Checker(context)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.REFETCH
    assert checker.judge(download, C, 0, RIGHT, mixed=False) is Verdict.ACCEPT
    assert not context.distrusted


def test_the_origin_shows_who_invented_what_it_gave(context: Context, download: Download) -> None:
    checker = Checker(context)
    hear(checker, download, A, 0, WRONG, first_hand=True)
    hear(checker, download, B, 0, WRONG)
    hear(checker, download, C, 0, RIGHT, first_hand=True)
    from_origin(checker, download, 0, RIGHT)
    assert list(context.distrusted) == [A]
    assert not download.neighbours[B].fit & 1
    assert download.neighbours[C].fit & 1


def test_who_tells_later_what_the_origin_did_not_give_us_has_lied_too(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    from_origin(checker, download, 0, RIGHT)
    hear(checker, download, A, 0, WRONG, first_hand=True)
    hear(checker, download, B, 0, WRONG)
    assert list(context.distrusted) == [A]


def test_who_had_it_from_the_origin_is_believed_before_others(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    hear(checker, download, A, 0, WRONG)
    hear(checker, download, B, 0, WRONG)
    assert download.neighbours[A].ready & 1
    hear(checker, download, C, 0, RIGHT, first_hand=True)
    assert not (download.neighbours[A].ready | download.neighbours[B].ready) & 1
    assert checker.claims(download, 0) == [RIGHT]
    assert checker.judge(download, A, 0, WRONG, mixed=False) is Verdict.REFETCH
    assert not context.distrusted  # they may have been fooled
    assert download.availability[0] == 1
    hear(checker, download, A, 0, RIGHT)
    assert download.neighbours[A].ready & 1


def test_who_contradicts_the_origins_pieces_is_suspect_for_it_may_have_been_fooled(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    for piece in range(OUTVOTED_MAX + 1):
        assert not download.suspects
        from_origin(checker, download, piece, RIGHT)
        hear(checker, download, A, piece, WRONG)
        hear(checker, download, A, piece, WRONG)  # the same once more is nothing new
    assert list(download.suspects) == [A]
    assert not context.distrusted


def test_who_is_outvoted_of_several_pieces_is_suspect(context: Context, download: Download) -> None:
    checker = Checker(context)
    for piece in range(OUTVOTED_MAX + 1):
        assert not download.suspects
        hear(checker, download, A, piece, WRONG)
        hear(checker, download, B, piece, RIGHT)
        hear(checker, download, C, piece, RIGHT)
    assert list(download.suspects) == [A]
    hear(checker, download, A, 0, RIGHT)
    assert download.neighbours[A].outvoted == 0b10


def test_of_a_liar_nothing_is_kept_that_only_it_vouched_for(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    for piece in range(4):
        hear(checker, download, A, piece, WRONG, first_hand=piece < 3)
        accept(download, piece, WRONG, B)
        hear(checker, download, B, piece, WRONG)
    hear(checker, download, C, 1, WRONG, first_hand=True)  # somebody else vouches for it
    from_origin(checker, download, 2, WRONG)  # and for this, we do
    hear(checker, download, A, 7, WRONG)
    from_origin(checker, download, 7, RIGHT)
    context.distrust(A, "for a test")
    checker.taint(download, download.neighbours[A])
    assert download.worthless == 0b0001
    download.shun(download.neighbours[A])
    checker.weigh_again(download)
    assert not download.neighbours[B].ready & 1  # whoever repeats it
    assert download.neighbours[B].ready & 2
    assert checker.judge(download, None, 0, WRONG, mixed=False) is Verdict.REFETCH


def test_what_a_liar_gave_us_is_worthless_even_if_it_did_not_vouch_for_it(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    hear(checker, download, A, 0, WRONG)
    accept(download, 0, WRONG, A)
    hear(checker, download, A, 7, WRONG)
    from_origin(checker, download, 7, RIGHT)
    context.distrust(A, "for a test")
    checker.taint(download, download.neighbours[A])
    assert download.worthless == 1


def test_what_fits_the_words_of_one_whose_bytes_were_wrong_once_is_kept(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    for piece in range(3):
        hear(checker, download, A, piece, RIGHT, first_hand=True)
        accept(download, piece, RIGHT, A)
    hear(checker, download, A, 3, RIGHT)
    assert checker.judge(download, A, 3, WRONG, mixed=False) is Verdict.REFETCH
    hear(checker, download, A, 3, RIGHT)
    assert list(context.distrusted) == [A]
    checker.taint(download, download.neighbours[A])
    hear(checker, download, A, 2, RIGHT, first_hand=True)
    assert not download.worthless


def test_a_liar_cannot_taint_the_whole_blob(context: Context) -> None:
    pieces = cut(400 * 512 * 1024)
    download = Download(Digest(bytes(32)), pieces, 0, Registration(OWN, count=100))
    liar = download.neighbours[A] = Neighbour(A, heard=True)
    checker = Checker(context)
    from_origin(checker, download, 0, RIGHT)
    hear(checker, download, A, 0, WRONG, first_hand=True)
    assert list(context.distrusted) == [A]
    for piece in range(1, pieces.count):
        accept(download, piece, RIGHT, B)
        checker.heard(download, liar, piece, RIGHT, True)
    assert download.worthless.bit_count() == TAINTED_MIN + TAINTED_SHARES * pieces.count // 100


def test_a_word_taken_back_makes_it_fit_again_once(context: Context, download: Download) -> None:
    checker, neighbour = Checker(context), download.neighbours[A]
    hear(checker, download, A, 0, WRONG)
    download.set_unfit(neighbour, 1)  # it gave us a piece that we doubt
    hear(checker, download, A, 0, RIGHT)
    assert neighbour.fit & 1
    assert download.availability[0] == 3
    download.set_unfit(neighbour, 1)
    hear(checker, download, A, 0, WRONG)
    assert not neighbour.fit & 1


def test_doubt_goes_from_what_is_disputed_to_everything(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    for piece in range(6):
        accept(download, piece, RIGHT, B)
    from_origin(checker, download, 0, RIGHT)
    hear(checker, download, A, 0, RIGHT, first_hand=True)
    hear(checker, download, A, 2, WRONG)
    hear(checker, download, B, 3, RIGHT, first_hand=True)
    hear(checker, download, B, 4, RIGHT, first_hand=True)
    download.times_damaged = 1
    assert checker.doubtful(download) == 0b000100
    download.from_origin = True  # so that somebody can be asked who lies
    assert checker.doubtful(download) == 0b001100
    download.givers[5] = C
    context.distrust(C, "for a test")
    assert checker.doubtful(download) == 0b101100
    download.worthless = 0b000010
    assert checker.doubtful(download) == 0b101110
    download.times_damaged = 2
    assert checker.doubtful(download) == 0b100110  # nobody vouches for these
    download.times_damaged = 3
    assert checker.doubtful(download) == 0b111110
    download.first_hand = 0b111111
    assert checker.doubtful(download) == 0
