"""The shared half of the codecs: headers, msgpack within limits, and typed structs."""

import msgpack
import pytest
from msgspec import Struct

from beiran.errors import BadPacket
from beiran.sansio.wire import HEADER_BYTES, Header, OtherCluster, Typed, pack, unpack_untrusted

MAGIC = b"\xbe\x00"
HEADER = Header("default")


class Point(Struct, array_like=True, tag=1):
    name: bytes
    at: tuple[int, ...] = ()


class Nothing(Struct, array_like=True, tag=2):
    pass


POINTS: Typed[Point | Nothing] = Typed(Point | Nothing)


def read(data: bytes) -> object:
    return POINTS.convert_untrusted(unpack_untrusted(data, items_max=16))


def test_a_body_follows_the_header_of_its_magic_and_cluster() -> None:
    data = HEADER.with_magic(MAGIC) + b"body"
    assert len(data) == HEADER_BYTES + 4
    assert bytes(HEADER.body_untrusted(data, MAGIC)) == b"body"
    with pytest.raises(BadPacket, match="of this kind"):
        HEADER.body_untrusted(data, b"\xbe\x01")
    with pytest.raises(BadPacket, match="of this kind"):
        HEADER.body_untrusted(data[:HEADER_BYTES], MAGIC)
    with pytest.raises(OtherCluster):
        Header("another").body_untrusted(data, MAGIC)
    with pytest.raises(BadPacket, match="wire version 9"):
        HEADER.body_untrusted(data[:2] + b"\x09" + data[3:], MAGIC)


@pytest.mark.parametrize("message", [Point(b"\0\xff", (1, 2)), Point(b""), Nothing()])
def test_a_message_is_read_as_it_was_packed(message: Point | Nothing) -> None:
    assert read(pack(message)) == message


@pytest.mark.parametrize(
    "fields",
    [
        [1, "AAEC"],  # base64 stands for bytes in JSON only
        [1, b"", ["text"]],
        [3],
        [],
        7,
        None,
        [1, b"", list(range(17))],
        [1, b"", {}, {"a": 1}],
        [1, msgpack.ExtType(1, b"x")],
    ],
)
def test_other_values_raise_bad_packet(fields: object) -> None:
    with pytest.raises(BadPacket):
        read(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x91", b"\x91\xa1\xff", b"\x01\x01", b"\x91" * 2000]
)
def test_invalid_msgpack_raises_bad_packet(data: bytes) -> None:
    with pytest.raises(BadPacket):
        read(data)


def test_arrays_are_tuples_where_that_is_asked_for() -> None:
    assert unpack_untrusted(b"\x92\x01\x91\x02", items_max=2, tuples=True) == (1, (2,))
    assert unpack_untrusted(b"\x92\x01\x91\x02", items_max=2) == [1, [2]]
