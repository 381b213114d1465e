"""Messages as bytes: golden bytes for each, round trips, a second decoder, and any bytes at all."""

import contextlib
import string
import zlib

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.errors import BadPacket
from beiran.gossip.codec import MAGIC_DEFLATED, NEWS_MAX, Codec
from beiran.gossip.config import DATAGRAM_BYTES_MAX, STREAM_BYTES_MAX
from beiran.gossip.membership.member import Address
from beiran.gossip.messages import (
    Ack,
    Ahead,
    Alive,
    Beacon,
    Datagram,
    Delta,
    Described,
    Down,
    Entry,
    Gossip,
    Held,
    Left,
    Nack,
    News,
    Ping,
    PingReq,
    Stream,
    StreamAck,
    StreamPing,
    Suspect,
    SyncBegin,
    SyncDelta,
    SyncExchange,
    SyncHeld,
    SyncMember,
    SyncVector,
    SyncWant,
    Want,
)
from beiran.ids import Digest, NodeId
from beiran.oci.images import ImageDescription, LayerDescription, RepoDigest
from beiran.sansio.wire import HEADER_BYTES, OtherCluster, packed_bytes

A = NodeId(b"A" * 16)
B = NodeId(b"B" * 16)
IMAGE = Digest(b"I" * 32)
LAYER = Digest(b"L" * 32)
CODEC = Codec("default")
HEAD = "be1a01" + "6aa9b4fd"  # magic, wire version, blake2b-32 of "default" for beiran

ALIVE = Alive(A, 7, 1, b"\x0a\x00\x00\x01", 8888, "host-1")
REPO_DIGEST = RepoDigest("busybox", Digest(b"M" * 32))
DESCRIPTION = ImageDescription(
    IMAGE, "linux", "amd64", "2026-01-02T03:04:05Z", (LayerDescription(LAYER, 4096),)
)

GOLDEN_NEWS: list[tuple[News, str]] = [
    (ALIVE, "9701c410" + "41" * 16 + "0701c4040a000001cd22b8a6686f73742d31"),
    (Suspect(A, 7, 1, B, True), "9602c410" + "41" * 16 + "0701c410" + "42" * 16 + "c3"),
    (Down(A, 7, 1, B), "9603c410" + "41" * 16 + "0701c410" + "42" * 16 + "c2"),
    (Left(A, 7, 2), "9404c410" + "41" * 16 + "0702"),
    (
        Delta(A, 5, 6, (Held(IMAGE, ("a:1",), (REPO_DIGEST,)),), (LAYER,)),
        "9605c410" + "41" * 16 + "050691" + "93c420" + "49" * 32 + "91a3613a31"
        "9192a762757379626f78c420" + "4d" * 32 + "91c420" + "4c" * 32,
    ),
    (Ahead(A, 300), "9306c410" + "41" * 16 + "cd012c"),
]
GOLDEN_DATAGRAMS: list[tuple[Datagram, str]] = [
    (Ping(1, A, 2**62), "950a01c410" + "41" * 16 + "cf400000000000000090"),
    (Ack(1, A, 3), "950b01c410" + "41" * 16 + "0390"),
    (
        PingReq(1, A, B, b"\x0a\x00\x00\x02", 8888),
        "970c01c410" + "41" * 16 + "c410" + "42" * 16 + "c4040a000002cd22b890",
    ),
    (Nack(1, A), "930d01c410" + "41" * 16),
    (
        Gossip(A, (CODEC.encode_news(Ahead(B, 1)),)),
        "930ec410" + "41" * 16 + "919306c410" + "42" * 16 + "01",
    ),
    (
        Beacon(ALIVE, 3),
        "930f9701c410" + "41" * 16 + "0701c4040a000001cd22b8a6686f73742d3103",
    ),
    (Want(A, (IMAGE,)), "9310c410" + "41" * 16 + "91c420" + "49" * 32),
    (
        Described(A, (DESCRIPTION,)),
        "9411c410" + "41" * 16 + "9195c420" + "49" * 32 + "a56c696e7578a5616d643634"
        "b4323032362d30312d30325430333a30343a30355a9192c420" + "4c" * 32 + "cd100090",
    ),
]
GOLDEN_STREAMS: list[tuple[Stream, str]] = [
    (
        SyncBegin(ALIVE, b"\0" * 8),
        "93149701c410" + "41" * 16 + "0701c4040a000001cd22b8a6686f73742d31c408" + "00" * 8,
    ),
    (
        SyncVector(ALIVE, (0,), (Entry(B, 1, 2, 0, 3),)),
        "94159701c410" + "41" * 16 + "0701c4040a000001cd22b8a6686f73742d319100"
        "9196c410" + "42" * 16 + "0102000300",
    ),
    (
        SyncExchange(
            A,
            IMAGE,
            (SyncMember(B, 1, 2, b"\x0a\x00\x00\x02", 8888, "host-2", 0),),
            (SyncDelta(B, 0, 3, (SyncHeld(0, ("a:1",)),)),),
            (SyncWant(B, 2),),
        ),
        "9616c410"
        + "41" * 16
        + "c420"
        + "49" * 32
        + "9198c410"
        + "42" * 16
        + "0102c4040a000002cd22b8a6686f73742d320000"
        + "9195c410"
        + "42" * 16
        + "0003919300"
        + "91a3613a3190"
        + "90"
        + "9192c410"
        + "42" * 16
        + "02",
    ),
    (StreamPing(A), "9218c410" + "41" * 16),
    (StreamAck(A), "9219c410" + "41" * 16),
]


@pytest.mark.parametrize(("news", "golden"), GOLDEN_NEWS, ids=lambda v: type(v).__name__)
def test_news_has_these_bytes(news: News, golden: str) -> None:
    item = CODEC.encode_news(news)
    assert packed_bytes(item) == len(golden) // 2
    gossip = CODEC.encode_datagram(Gossip(A, (item,)))
    assert gossip.hex() == HEAD + "930ec410" + "41" * 16 + "91" + golden
    read = CODEC.decode_datagram_untrusted(gossip).news
    assert read == (item,)
    assert CODEC.decode_news_untrusted(read) == [(news, item)]


@pytest.mark.parametrize(("message", "golden"), GOLDEN_DATAGRAMS, ids=lambda v: type(v).__name__)
def test_a_datagram_has_these_bytes(message: Datagram, golden: str) -> None:
    data = CODEC.encode_datagram(message)
    assert data.hex() == HEAD + golden
    decoded = CODEC.decode_datagram_untrusted(data)
    assert CODEC.encode_datagram(decoded) == data


@pytest.mark.parametrize(("message", "golden"), GOLDEN_STREAMS, ids=lambda v: type(v).__name__)
def test_a_stream_message_has_these_bytes(message: Stream, golden: str) -> None:
    data = CODEC.encode_stream(message)
    assert data.hex() == HEAD + golden
    assert CODEC.decode_stream_untrusted(data) == message


def test_every_message_has_golden_bytes() -> None:
    golden = {type(m) for m, _ in [*GOLDEN_NEWS, *GOLDEN_DATAGRAMS, *GOLDEN_STREAMS]}
    assert golden == {*News.__args__, *Datagram.__args__, *Stream.__args__}


@pytest.mark.parametrize(("message", "golden"), GOLDEN_DATAGRAMS, ids=lambda v: type(v).__name__)
def test_an_independent_decoder_reads_the_same(message: Datagram, golden: str) -> None:
    unpacked = msgspec.msgpack.decode(CODEC.encode_datagram(message)[HEADER_BYTES:])
    assert unpacked[0] == type(message).__struct_config__.tag
    assert len(unpacked) == len(message.__struct_fields__) + 1


names = st.text(string.ascii_letters, max_size=20)
node_ids = st.binary(min_size=16, max_size=16).map(NodeId)
digests = st.binary(min_size=32, max_size=32).map(Digest)
counts = st.integers(0, 2**48)
helds = st.builds(Held, digests, st.lists(names, max_size=3).map(tuple))
deltas = st.builds(
    Delta, node_ids, counts, counts, st.lists(helds, max_size=3).map(tuple),
    st.lists(digests, max_size=3).map(tuple),
)  # fmt: skip
any_news = st.one_of(
    st.builds(
        Alive, node_ids, counts, counts, st.binary(min_size=4, max_size=4),
        st.integers(1, 65535), names,
    ),
    st.builds(Suspect, node_ids, counts, counts, node_ids, st.booleans()),
    st.builds(Left, node_ids, counts, counts),
    deltas,
)  # fmt: skip


@given(st.lists(any_news, max_size=10), st.integers(0, 2**32 - 1), node_ids)
def test_a_datagram_survives_a_round_trip(news: list[News], probe: int, sender: NodeId) -> None:
    items = tuple(CODEC.encode_news(item) for item in news)
    data = CODEC.encode_datagram(Ping(probe, sender, 1, items))
    if len(data) > DATAGRAM_BYTES_MAX:
        return
    decoded = CODEC.decode_datagram_untrusted(data)
    assert isinstance(decoded, Ping)
    assert [item for item, _ in CODEC.decode_news_untrusted(decoded.news)] == news


def test_a_long_stream_message_is_deflated_and_read_again() -> None:
    message = Want(A, (IMAGE,) * 1000)
    data = CODEC.encode_stream(message)
    assert data[:2] == MAGIC_DEFLATED
    assert len(data) < 1000
    assert CODEC.decode_stream_untrusted(data) == message


def test_a_bomb_is_not_inflated_past_the_limit() -> None:
    bomb = zlib.compress(b"\0" * (STREAM_BYTES_MAX + 1))
    data = MAGIC_DEFLATED + CODEC.encode_stream(StreamPing(A))[2:HEADER_BYTES] + bomb
    with pytest.raises(BadPacket, match="too long"):
        CODEC.decode_stream_untrusted(data)


def test_a_cut_off_body_is_refused() -> None:
    data = CODEC.encode_stream(Want(A, (IMAGE,) * 1000))
    for cut in range(HEADER_BYTES, len(data)):
        with pytest.raises(BadPacket):
            CODEC.decode_stream_untrusted(data[:cut])


def test_a_packet_of_another_cluster_is_rejected() -> None:
    with pytest.raises(OtherCluster):
        Codec("another").decode_datagram_untrusted(CODEC.encode_datagram(Nack(1, A)))


def test_another_wire_version_is_refused_by_its_number() -> None:
    data = bytearray(CODEC.encode_datagram(Nack(1, A)))
    data[2] = 9
    with pytest.raises(BadPacket, match="wire version 9"):
        CODEC.decode_datagram_untrusted(bytes(data))


def test_news_of_an_unknown_kind_is_skipped() -> None:
    unknown = (99, "from the future")
    known = CODEC.encode_news(Left(A, 1, 1))
    assert CODEC.decode_news_untrusted([unknown, known]) == [(Left(A, 1, 1), known)]


def test_new_fields_at_the_end_are_skipped() -> None:
    longer = (4, bytes(A), 1, 1, "new")
    assert CODEC.decode_news_untrusted([longer]) == [(Left(A, 1, 1), longer)]


def test_new_fields_at_the_end_are_passed_on() -> None:
    longer = (4, bytes(A), 1, 1, "new")
    read = CODEC.decode_datagram_untrusted(CODEC.encode_datagram(Gossip(A, (longer,))))
    ((_, item),) = CODEC.decode_news_untrusted(read.news)
    assert CODEC.encode_datagram(Gossip(B, (item,))).endswith(msgpack.packb(longer))


@pytest.mark.parametrize(
    "item",
    [
        [4, b"short", 1, 1],
        [4, b"A" * 16, -1, 1],
        [4, b"A" * 16, 2**60, 1],
        [1, b"A" * 16, 1, 1, b"\x0a\x00\x00\x01", 0, "port zero"],
        [1, b"A" * 16, 1, 1, b"\x0a\x00\x00\x01", 8888, "n" * 256],
        [1, b"A" * 16, 1, 1, b"\0" * 5, 8888, "an address of 5 bytes"],
        [4, "QUFBQUFBQUFBQUFBQUFBQQ==", 1, 1],  # base64 stands for bytes in JSON only
        [],
        [True, b"A" * 16, 1, 1],
        [4.0, b"A" * 16, 1, 1],
        4,
        "text",
    ],
)
def test_malformed_news_is_refused(item: object) -> None:
    data = bytes.fromhex(HEAD) + msgpack.packb([14, A, [item]])
    with pytest.raises(BadPacket):
        CODEC.decode_news_untrusted(CODEC.decode_datagram_untrusted(data).news)


def test_too_much_news_is_refused() -> None:
    item = CODEC.encode_news(Left(A, 1, 1))
    with pytest.raises(BadPacket, match="pieces of news"):
        CODEC.decode_news_untrusted([item] * (NEWS_MAX + 1))


def test_a_datagram_beyond_the_limit_is_refused() -> None:
    with pytest.raises(BadPacket, match="longer"):
        CODEC.decode_datagram_untrusted(CODEC.encode_datagram(Nack(1, A)) + b"\0" * 1400)


def test_a_deflated_datagram_is_refused() -> None:
    data = MAGIC_DEFLATED + CODEC.encode_datagram(Nack(1, A))[2:]
    with pytest.raises(BadPacket):
        CODEC.decode_datagram_untrusted(data)


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_bad_packet(data: bytes) -> None:
    for decode in (CODEC.decode_datagram_untrusted, CODEC.decode_stream_untrusted):
        for prefix in (b"", bytes.fromhex(HEAD)):
            try:
                decode(prefix + data)
            except BadPacket:
                continue


@given(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text()
                    | st.floats() | st.booleans(), st.lists, max_leaves=30))  # fmt: skip
def test_any_msgpack_raises_only_bad_packet(value: object) -> None:
    packed = msgpack.packb(value)
    gossip = bytes.fromhex(HEAD) + msgpack.packb([14, A, [value]])
    for decode in (CODEC.decode_datagram_untrusted, CODEC.decode_stream_untrusted):
        try:
            decode(bytes.fromhex(HEAD) + packed)
        except BadPacket:
            continue
    with contextlib.suppress(BadPacket):
        CODEC.decode_news_untrusted(CODEC.decode_datagram_untrusted(gossip).news)


@pytest.mark.parametrize("host", ["10.0.0.1", "fe80::1", "255.255.255.255"])
def test_an_address_is_packed_and_unpacked(host: str) -> None:
    address = Address(host, 8888)
    assert Address.unpacked(address.packed_host, 8888) == address


@pytest.mark.parametrize("length", [5, 8, 15])
def test_an_address_of_another_length_is_refused(length: int) -> None:
    data = bytes.fromhex(HEAD) + msgpack.packb([12, 1, A, B, b"\0" * length, 8888, []])
    with pytest.raises(BadPacket, match="an address of"):
        CODEC.decode_datagram_untrusted(data)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([20, list(msgspec.structs.astuple(ALIVE)), b"\0" * 24], "power of two"),
        ([20, list(msgspec.structs.astuple(ALIVE)), b"\0" * 12], "power of two"),
        ([22, A, b"\0" * 33], "a digest table of 33 bytes"),
        ([22, A, IMAGE, [], [[B, 0, 3, [[1]]]]], "not in the digest table"),
        ([22, A, IMAGE, [], [[B, 0, 3, [], [1]]]], "not in the digest table"),
    ],
)
def test_a_stream_message_that_contradicts_itself_is_refused(
    fields: list[object], reason: str
) -> None:
    if fields[0] == 20:
        fields = [20, [1, *fields[1]], fields[2]]  # type: ignore[misc]
    with pytest.raises(BadPacket, match=reason):
        CODEC.decode_stream_untrusted(bytes.fromhex(HEAD) + msgpack.packb(fields))


def test_an_array_that_claims_more_than_it_holds_is_refused_at_once() -> None:
    nested = b"\xdd\x01\xff\xff\xff" * 1000  # arrays of 33 million, each in the one before
    for decode in (CODEC.decode_datagram_untrusted, CODEC.decode_stream_untrusted):
        with pytest.raises(BadPacket):
            decode(bytes.fromhex(HEAD) + nested[:1000])


def test_maps_and_extension_types_are_refused() -> None:
    for value in ({"a": 1}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 0)):
        with pytest.raises(BadPacket):
            CODEC.decode_datagram_untrusted(bytes.fromhex(HEAD) + msgpack.packb([13, 1, A, value]))
