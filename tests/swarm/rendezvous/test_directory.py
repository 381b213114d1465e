"""A rendezvous node: which participants are in which swarm."""

from random import Random

from beiran.ids import NodeId
from beiran.swarm.config import SwarmConfig
from beiran.swarm.messages import (
    Grant,
    LeaseAnswer,
    LeaseReport,
    LeaseState,
    Leave,
    Message,
    Participants,
    Register,
)
from beiran.swarm.node import SwarmNode
from simulations.swarm.blobs import Blob, image
from simulations.swarm.world import World
from tests.swarm.three_nodes import AT, BLOB, CODEC, OWN, PIECE, A, B, sent


def rendezvous() -> SwarmNode:
    node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members(AT, now=0.0)
    return node


def registers(
    node: SwarmNode, sender: NodeId, size_bytes: int, now: float, *, number: int = 1
) -> list[Message]:
    register = Register(sender, BLOB, size_bytes, number, b"", b"", b"", True, True, 5)
    return sent(node.receive_datagram(CODEC.encode(register), AT[sender], now=now))


def test_participants_with_another_size_are_in_another_swarm() -> None:
    node = rendezvous()
    first = registers(node, A, PIECE - 1, 0.0)
    second = registers(node, B, PIECE, 0.0)
    for messages in (first, second):
        assert {m.count for m in messages if isinstance(m, Participants)} == {1}
        assert [m.count for m in messages if isinstance(m, Grant)] == [1]
    assert node.counters["bad_packets"] == 0


def test_a_report_counts_in_the_swarm_of_its_sender() -> None:
    node = rendezvous()
    registers(node, A, PIECE - 1, 0.0)
    (grant,) = [m for m in registers(node, B, PIECE, 0.0) if isinstance(m, Grant)]
    done = CODEC.encode(LeaseReport(B, BLOB, grant.lease, PIECE, LeaseState.DONE))
    answers = sent(node.receive_datagram(done, AT[B], now=0.5))
    assert LeaseAnswer(OWN, BLOB, grant.lease) in answers
    stray = CODEC.encode(LeaseReport(A, BLOB, grant.lease, 5, LeaseState.RUNNING))
    assert sent(node.receive_datagram(stray, AT[A], now=0.5)) == [
        LeaseAnswer(OWN, BLOB, grant.lease)
    ]


def test_a_participant_that_corrects_the_size_changes_its_swarm() -> None:
    node = rendezvous()
    registers(node, A, PIECE - 1, 0.0)
    registers(node, B, PIECE, 0.0)
    assert len(node._directory) == 2
    messages = registers(node, A, PIECE, 0.1, number=2)
    assert {m.count for m in messages if isinstance(m, Participants)} == {2}
    assert len(node._directory) == 1
    for node_id in (A, B):
        node.receive_datagram(CODEC.encode(Leave(node_id, BLOB)), AT[node_id], now=0.2)
    assert len(node._directory) == 0
    assert node.next_deadline() is None


def test_a_wrong_size_keeps_no_other_participant_from_the_blob() -> None:
    world = World(3)
    right = image(1, 12_000_000)
    wrong = [Blob(right[0].name, 11_000_000)]
    world.publish(right)
    hosts = world.add_many(6)
    world.pull(hosts[0], wrong)
    world.run(0.3)
    for host in hosts[1:]:
        world.pull(host, right)
    world.run_until(world.pulled(hosts[1:], right), within_s=30)
    assert world.origin.sent_bytes <= 12_000_000 + 11_000_000
