"""How blobs are cut, and sets of pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.errors import BadPacket
from beiran.sansio.rate import Rate
from beiran.swarm.config import PIECE_BYTES, PIECE_BYTES_SMALL, PIECES_MAX, SMALL_BLOB_BYTES
from beiran.swarm.pieces import cut, lowest_run, pack_bits, pieces_in, unpack_bits_untrusted


@given(st.integers(0, 2**48))
def test_pieces_cover_a_blob_exactly_once(size: int) -> None:
    pieces = cut(size)
    assert pieces.count <= PIECES_MAX
    assert sum(pieces.length(p) for p in range(pieces.count)) == size
    assert pieces.within(0, size) == pieces.all
    assert all(pieces.at(pieces.start(p)) == p for p in range(pieces.count))


def test_an_empty_blob_has_no_pieces() -> None:
    pieces = cut(0)
    assert (pieces.count, pieces.all, pieces.within(0, 0)) == (0, 0, 0)


def test_pieces_grow_so_that_there_are_never_too_many() -> None:
    assert cut(PIECE_BYTES * PIECES_MAX).piece_bytes == PIECE_BYTES
    assert cut(PIECE_BYTES * PIECES_MAX + 1).piece_bytes == 2 * PIECE_BYTES


def test_small_blobs_have_smaller_pieces() -> None:
    assert cut(SMALL_BLOB_BYTES).piece_bytes == PIECE_BYTES_SMALL
    assert cut(SMALL_BLOB_BYTES + 1).piece_bytes == PIECE_BYTES


@given(st.sets(st.integers(0, PIECES_MAX - 1)))
def test_piece_sets_survive_packing(chosen: set[int]) -> None:
    bits = sum(1 << piece for piece in chosen)
    assert list(pieces_in(bits)) == sorted(chosen)
    pieces = cut(PIECE_BYTES * PIECES_MAX)
    assert unpack_bits_untrusted(pack_bits(bits), pieces) == bits


def test_a_piece_beyond_the_blob_is_refused() -> None:
    with pytest.raises(BadPacket, match="piece 3"):
        unpack_bits_untrusted(b"\x08", cut(3 * PIECE_BYTES_SMALL))


def test_the_lowest_run_ends_at_the_first_gap() -> None:
    assert lowest_run(0b1011100) == 0b0011100
    assert lowest_run(0) == 0


def test_a_rate_forgets_what_was_before_a_pause() -> None:
    rate = Rate()
    for tenth in range(20):
        rate.add(100, tenth / 10)
    assert 900 < rate.bytes_per_s < 1300
    rate.add(100, 100.0)
    rate.add(100, 100.5)
    assert rate.bytes_per_s > 300  # the 98 s in between do not count
