"""Inputs of a node: datagrams from strangers, damaged ones, and contradictions."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import (
    SwarmConfig,
)
from beiran.swarm.messages import (
    HashesWanted,
    Have,
    Leave,
    Message,
    PieceHash,
    Register,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from tests.swarm.test_codec import GOLDEN

NODE = NodeId(bytes(range(16)))
OTHER = NodeId(bytes(range(16, 32)))
BLOB = Digest(b"\xaa" * 32)
CODEC = SwarmCodec("default")


@given(
    st.sampled_from([message for message, _ in GOLDEN]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
)
def test_damaged_datagrams_never_disturb_a_node(
    message: Message, changes: list[tuple[int, int]]
) -> None:
    node = SwarmNode(OTHER, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members({NODE: Address("10.0.0.1", 8888)}, now=0.0)
    node.want(BlobWanted(BLOB, 1000, True), now=0.0)
    data = bytearray(CODEC.encode(message))
    for at, value in changes:
        data[at % len(data)] = value
    node.receive_datagram(bytes(data), Address("10.0.0.1", 8888), now=0.1)
    for _ in range(30):
        deadline = node.next_deadline()
        assert deadline is not None
        node.advance(now=deadline)


def test_strangers_and_unreadable_datagrams_are_counted() -> None:
    node = SwarmNode(OTHER, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    source = Address("10.0.0.9", 8888)
    assert node.receive_datagram(CODEC.encode(Leave(NODE, BLOB)), source, now=0.0) == []
    assert node.receive_datagram(b"nonsense", source, now=0.0) == []
    other = SwarmCodec("another").encode(Leave(NODE, BLOB))
    assert node.receive_datagram(other, source, now=0.0) == []
    assert node.counters["strangers"] == 1
    assert node.counters["bad_packets"] == 1
    assert node.counters["other_cluster_packets"] == 1


@pytest.mark.parametrize(
    "message",
    [
        Have(NODE, BLOB, 1000, b"\x02", False, True, 0),  # a piece that there is not
        Have(NODE, BLOB, 999, b"\x01", False, True, 0),  # another size
        Have(NODE, BLOB, 1000, b"", False, True, 0, (PieceHash(1, b"h" * 16),)),
        HashesWanted(NODE, BLOB, 1000, b"\x02"),
        HashesWanted(NODE, BLOB, 999, b"\x01"),
        Register(NODE, BLOB, 1000, 1, b"\x02", b"", b"", True, True, 0),
    ],
)
def test_a_message_that_contradicts_the_blob_changes_nothing(message: Message) -> None:
    node = SwarmNode(OTHER, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    source = Address("10.0.0.1", 8888)
    node.set_members({NODE: source}, now=0.0)
    node.want(BlobWanted(BLOB, 1000, False), now=0.0)
    assert node.receive_datagram(CODEC.encode(message), source, now=0.0) == []
    assert node.counters["bad_packets"] == 1
