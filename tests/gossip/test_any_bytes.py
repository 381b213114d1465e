"""Whatever peers send: the core stays sound, and the store can write what comes of it.

``make fuzz`` does the same at length (``tests/fuzz``); what it found is here by name.
"""

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from beiran.errors import BadPacket
from beiran.gossip.membership.member import Address
from beiran.gossip.messages import (
    Alive,
    Datagram,
    Delta,
    Described,
    Gossip,
    News,
    Stream,
    Suspect,
    SyncDelta,
    SyncExchange,
)
from beiran.ids import Digest, NodeId
from beiran.oci.images import ImageDescription, LayerDescription
from beiran.store.reads import HeldBy
from beiran.store.store import Store
from tests.fuzz.choices import DIGESTS, HOSTS, NODES, Choices, any_of
from tests.fuzz.one_node import CODEC, OWN, OneNode, run

AT = "2026-01-01T00:00:00Z"
PEER = NodeId(NODES[1])
THERE = Address("10.0.0.2", 8888)
COUNT_MAX = 2**48  # as messages.Count has it
scripts = st.binary(max_size=300)


@settings(max_examples=300, deadline=None)
@given(scripts)
def test_any_packets_in_any_order_leave_the_core_sound(script: bytes) -> None:
    run(script)


@settings(max_examples=20, deadline=None)
@given(scripts)
def test_the_store_can_write_the_effects_of_any_packets(script: bytes) -> None:
    node = run(script)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"{folder}/beiran.db", node=OWN, cluster="default", name="own")
        try:
            store.apply(node.found, AT)
            with store.reading() as queries:
                for member in node.core.members.all():
                    held = {h.image for h in node.core.possession.holdings(member.node)}
                    listed = queries.images(HeldBy(member.node))
                    assert {image.id for image in listed} == {f"sha256:{i.hex()}" for i in held}
        finally:
            store.close()


@settings(max_examples=300, deadline=None)
@given(scripts)
def test_any_message_that_the_types_allow_is_read_as_it_was_sent(script: bytes) -> None:
    choices = Choices(script)
    for union, encode, decode in (
        (Datagram, CODEC.encode_datagram, CODEC.decode_datagram_untrusted),
        (Stream, CODEC.encode_stream, CODEC.decode_stream_untrusted),
    ):
        message = any_of(union, choices)
        try:
            read = decode(encode(message))
        except BadPacket:
            continue  # longer than a datagram may be, or news in it is cut off
        # Garbage that stands for several items of news is read as several.
        assert read == message or encode(read) == encode(message)  # type: ignore[arg-type]


def hear(node: OneNode, news: News) -> None:
    data = CODEC.encode_datagram(Gossip(PEER, (CODEC.encode_news(news),)))
    node.do(node.core.receive_datagram(data, THERE, now=node.now))


def test_an_image_released_twice_in_one_delta_is_released_once() -> None:
    node = OneNode()
    hear(node, Delta(PEER, 4, 5, (), (Digest(DIGESTS[1]), Digest(DIGESTS[1]))))
    assert [h.image for h in node.core.possession.holdings(PEER)] == [DIGESTS[0]]


def test_own_announcements_are_readable_after_any_packets() -> None:
    node = OneNode()
    for generation, incarnation in ((5, COUNT_MAX), (COUNT_MAX, 0), (COUNT_MAX, COUNT_MAX)):
        hear(node, Suspect(OWN, generation, incarnation, PEER))
        hear(node, Alive(OWN, generation, incarnation, HOSTS[0], 8888, "own"))
    for version in (COUNT_MAX - 1, COUNT_MAX):
        exchange = SyncExchange(PEER, b"", (), (SyncDelta(OWN, 0, version),))
        reply, effects = node.core.receive_request(CODEC.encode_stream(exchange), now=node.now)
        assert reply is not None
        node.do(effects)
    node.hold(2)
    node.hold(3)
    node.advance(3.0)  # every packet sent is read again in there
    own = node.core.own
    assert max(own.generation, own.incarnation) < COUNT_MAX


def test_sizes_that_no_database_can_hold_are_refused() -> None:
    for size_bytes in (-1, 2**63, 2**64 - 1):
        layers = (LayerDescription(Digest(DIGESTS[0]), size_bytes),)
        description = ImageDescription(Digest(DIGESTS[1]), "linux", "amd64", "", layers)
        node = OneNode()
        bad = node.core.counters["bad_packets"]
        data = CODEC.encode_datagram(Described(PEER, (description,)))
        assert node.core.receive_datagram(data, THERE, now=node.now) == []
        assert node.core.counters["bad_packets"] == bad + 1


def test_a_lone_node_that_has_left_comes_to_rest() -> None:
    node = OneNode(neighbours=0)
    node.leave()
    node.advance(3600.0)  # it would not return
