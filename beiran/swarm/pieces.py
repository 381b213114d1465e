"""How a blob is cut into pieces, and sets of pieces as the bits of an integer.

Bit ``i`` of an integer stands for piece ``i``. Unions, differences and counts of 1,024 pieces are
single operations, and the order of iteration is the same in every run.
"""

from collections.abc import Iterator

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.swarm.config import PIECE_BYTES, PIECE_BYTES_SMALL, PIECES_MAX, SMALL_BLOB_BYTES


class Pieces(Struct, frozen=True):
    """A blob's pieces. They follow from its size alone, so all nodes cut it alike."""

    size_bytes: int
    piece_bytes: int
    count: int
    all: int
    """The set of all pieces."""

    def start(self, piece: int) -> int:
        """The offset of a piece's first byte."""
        return piece * self.piece_bytes

    def end(self, piece: int) -> int:
        """The offset after a piece's last byte."""
        return min(self.size_bytes, (piece + 1) * self.piece_bytes)

    def length(self, piece: int) -> int:
        """Bytes of one piece. Only the last piece may be short."""
        return self.end(piece) - self.start(piece)

    def at(self, offset: int) -> int:
        """The piece that has the byte at ``offset``."""
        return offset // self.piece_bytes

    def within(self, start: int, end: int) -> int:
        """The set of pieces that have any byte from ``start`` to before ``end``."""
        if end <= start:
            return 0
        first, last = self.at(start), self.at(end - 1)
        return ((1 << (last - first + 1)) - 1) << first


def cut(size_bytes: int) -> Pieces:
    """Cut a blob into pieces of ``PIECE_BYTES``, doubled until there are at most ``PIECES_MAX``.

    A node passes a piece on once it has the whole piece, so the last of N nodes is log2 N pieces
    behind the first (Mundinger, Weber and Weiss 2008). Small blobs have smaller pieces, as that
    delay weighs more there.
    """
    piece_bytes = PIECE_BYTES_SMALL if size_bytes <= SMALL_BLOB_BYTES else PIECE_BYTES
    while size_bytes > piece_bytes * PIECES_MAX:
        piece_bytes *= 2
    count = -(-size_bytes // piece_bytes)
    return Pieces(size_bytes, piece_bytes, count, (1 << count) - 1)


def pieces_in(bits: int) -> Iterator[int]:
    """Iterate over the pieces of a set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def lowest_run(bits: int) -> int:
    """The first pieces of a set that follow one another without a gap."""
    run = 0
    for piece in pieces_in(bits):
        if run and not run >> (piece - 1) & 1:
            break
        run |= 1 << piece
    return run


def pack_bits(bits: int) -> bytes:
    """A set as datagrams have it: little-endian, without trailing zero bytes."""
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpack_bits_untrusted(data: bytes, pieces: Pieces) -> int:
    """Read a set that ``pack_bits`` packed.

    Raises: BadPacket if it has pieces that the blob does not have.
    """
    bits = int.from_bytes(data, "little")
    if bits.bit_length() > pieces.count:
        raise BadPacket(f"piece {bits.bit_length() - 1} of a blob with {pieces.count}")
    return bits
