"""Which pieces are accepted, and whose word is doubted."""

from random import Random

import pytest

from beiran.gossip.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.checking import CONTRADICTIONS_MAX, Checker, Verdict
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour, Registration
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
    download = Download(Digest(bytes(32)), cut(PIECES * 512 * 1024), 0, Registration(OWN))
    for node in (A, B, C):
        neighbour = download.neighbours[node] = Neighbour(node, heard=True)
        download.set_held(neighbour, download.pieces.all)
    return download


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
    checker.repeated(download.neighbours[A], 0, RIGHT)
    assert list(context.distrusted) == [A]


def test_who_found_out_meanwhile_that_it_was_fooled_is_not(
    context: Context, download: Download
) -> None:
    download.neighbours[A].claim(0, WRONG, False)
    checker = Checker(context)
    assert checker.judge(download, A, 0, RIGHT, mixed=False) is Verdict.REFETCH
    checker.repeated(download.neighbours[A], 0, RIGHT)
    checker.repeated(download.neighbours[A], 0, WRONG)
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
    download.neighbours[A].claim(0, WRONG, True)
    download.neighbours[B].claim(0, WRONG, False)
    download.neighbours[C].claim(0, RIGHT, True)
    Checker(context).from_origin(download, 0, RIGHT)
    assert list(context.distrusted) == [A]
    assert not download.neighbours[B].fit & 1
    assert download.neighbours[C].fit & 1


def test_doubt_begins_with_what_is_disputed_and_ends_with_everything(
    context: Context, download: Download
) -> None:
    checker = Checker(context)
    download.held, download.first_hand = 0b1111, 0b0001
    download.hashes = dict.fromkeys(range(4), RIGHT)
    download.neighbours[A].claim(0, WRONG, False)
    download.neighbours[A].claim(2, WRONG, False)
    download.times_damaged = 1
    assert checker.doubtful(download) == 0b0100
    download.givers[3] = B
    context.distrust(B, "for a test")
    assert checker.doubtful(download) == 0b1100
    download.times_damaged = 2
    assert checker.doubtful(download) == 0b1110
    download.first_hand = 0b1111
    assert checker.doubtful(download) == 0
