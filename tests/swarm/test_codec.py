"""The swarm's datagrams: golden bytes, round trips, an independent decoder, and any bytes."""

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.errors import BadPacket
from beiran.ids import Digest, NodeId
from beiran.sansio.wire import HEADER_BYTES, OtherCluster
from beiran.swarm.codec import MAGIC, SwarmCodec, is_swarm
from beiran.swarm.config import (
    DATAGRAM_BYTES_MAX,
    HASHES_MAX,
    NEIGHBOURS_MAX,
    PIECES_MAX,
    SEEDS_MAX,
)
from beiran.swarm.messages import (
    Grant,
    HashesWanted,
    Have,
    LeaseAnswer,
    LeaseReport,
    LeaseState,
    Leave,
    Message,
    Participants,
    PieceHash,
    Register,
)

NODE = NodeId(bytes(range(16)))
OTHER = NodeId(bytes(range(16, 32)))
BLOB = Digest(b"\xaa" * 32)
CODEC = SwarmCodec("default")
HEAD = "be5301"  # then the cluster
N, D = "c410" + NODE.hex(), "c420" + BLOB.hex()

GOLDEN: list[tuple[Message, str]] = [
    (
        Register(NODE, BLOB, 1000, 7, b"\x01", b"\x02", b"", True, True, 5, (OTHER,)),
        f"9c01{N}{D}cd03e807c40101c40102c400c3c30591c410{OTHER.hex()}",
    ),
    (
        Participants(NODE, BLOB, 7, 2, True, False, True, (OTHER,), ()),
        f"9a02{N}{D}0702c3c2c391c410{OTHER.hex()}90",
    ),
    (Leave(NODE, BLOB), f"9303{N}{D}"),
    (Grant(NODE, BLOB, 9, 3, 2), f"9604{N}{D}090302"),
    (
        LeaseReport(NODE, BLOB, 9, 512, LeaseState.RUNNING, throttled=True),
        f"9705{N}{D}09cd020000c3",
    ),
    (LeaseAnswer(NODE, BLOB, 9), f"9406{N}{D}09"),
    (
        Have(NODE, BLOB, 1000, b"\x05", True, False, 3, (PieceHash(2, b"h" * 16, True),), False),
        f"9a07{N}{D}cd03e8c40105c3c203919302c410{'68' * 16}c3c2",
    ),
    (HashesWanted(NODE, BLOB, 1000, b"\x05"), f"9508{N}{D}cd03e8c40105"),
]


@pytest.mark.parametrize(("message", "body"), GOLDEN, ids=lambda value: type(value).__name__)
def test_every_message_has_the_bytes_that_it_always_had(message: Message, body: str) -> None:
    data = CODEC.encode(message)
    assert data[:3].hex() == HEAD
    assert data[HEADER_BYTES:].hex() == body
    assert CODEC.decode_untrusted(data) == message


@pytest.mark.parametrize(("message", "body"), GOLDEN, ids=lambda value: type(value).__name__)
def test_another_decoder_reads_the_same(message: Message, body: str) -> None:
    fields = msgpack.unpackb(CODEC.encode(message)[HEADER_BYTES:])
    assert fields[1] == message.sender
    assert fields[2] == message.digest


def test_a_lease_report_without_throttled_is_read() -> None:
    data = CODEC.encode(Leave(NODE, BLOB))[:HEADER_BYTES]
    older = data + bytes.fromhex(f"9605{N}{D}09cd020001")
    assert CODEC.decode_untrusted(older) == LeaseReport(NODE, BLOB, 9, 512, LeaseState.DONE)


def test_the_largest_messages_fit_in_a_datagram() -> None:
    bits = b"\xff" * (PIECES_MAX // 8)
    nodes = tuple(NodeId(bytes([i]) * 16) for i in range(NEIGHBOURS_MAX))
    hashes = tuple(PieceHash(PIECES_MAX - 1, b"h" * 16, True) for _ in range(HASHES_MAX))
    largest: list[Message] = [
        Register(
            NODE,
            BLOB,
            2**48,
            2**32 - 1,
            bits,
            bits,
            bits,
            True,
            True,
            NEIGHBOURS_MAX,
            nodes[:SEEDS_MAX],
        ),
        Participants(NODE, BLOB, 2**32 - 1, 2**32 - 1, True, True, True, nodes, nodes[:SEEDS_MAX]),
        Have(NODE, BLOB, 2**48, bits, True, True, 65535, hashes),
    ]
    for message in largest:
        assert len(CODEC.encode(message)) <= DATAGRAM_BYTES_MAX


def test_a_datagram_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadPacket, match="longer"):
        CODEC.decode_untrusted(MAGIC + bytes(DATAGRAM_BYTES_MAX))


def test_another_wire_version_is_refused() -> None:
    data = bytearray(CODEC.encode(Leave(NODE, BLOB)))
    data[2] = 99
    with pytest.raises(BadPacket, match="version 99"):
        CODEC.decode_untrusted(bytes(data))


def test_datagrams_of_other_clusters_are_refused() -> None:
    with pytest.raises(OtherCluster):
        CODEC.decode_untrusted(SwarmCodec("another").encode(Leave(NODE, BLOB)))


def test_gossip_datagrams_are_not_swarm_datagrams() -> None:
    assert is_swarm(CODEC.encode(Leave(NODE, BLOB)))
    assert not is_swarm(b"\xbe\x1a\x01")
    with pytest.raises(BadPacket, match="not a beiran packet"):
        CODEC.decode_untrusted(b"\xbe\x1a\x01" + bytes(20))


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_bad_packet(body: bytes) -> None:
    head = CODEC.encode(Leave(NODE, BLOB))[:HEADER_BYTES]
    for data in (body, head + body):
        with suppress(BadPacket):
            CODEC.decode_untrusted(data)
