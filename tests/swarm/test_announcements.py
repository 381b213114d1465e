"""Which pieces and hashes nodes announce, and which neighbours they keep."""

from random import Random

from beiran.swarm.config import NEIGHBOURS_MAX, SwarmConfig
from beiran.swarm.effects import Effect
from beiran.swarm.messages import (
    HashesWanted,
    Have,
    Participants,
    PieceHash,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from tests.swarm.single_node import (
    AT,
    BLOB,
    HASHES,
    OWN,
    PEERS,
    SIZE,
    answers,
    have,
    pull_alone,
    tell,
    wanted,
)


def test_a_node_with_a_verified_blob_attests_every_hash(node: SwarmNode) -> None:
    pull_alone(node)
    (answer,) = answers(tell(node, wanted(), now=0.4), PEERS[1])
    assert isinstance(answer, Have)
    assert answer.hashes == (PieceHash(0, b"0" * 16, True), PieceHash(1, b"1" * 16, True))


def test_hashes_provided_with_a_blob_are_attested(node: SwarmNode) -> None:
    node.provide(BLOB, SIZE, now=0.0, hashes=HASHES)
    node.provide(BLOB, SIZE, now=0.0)  # without hashes: those known before stay
    (answer,) = answers(tell(node, wanted(b"\x02")), PEERS[1])
    assert isinstance(answer, Have)
    assert answer.hashes == (PieceHash(1, b"1" * 16, True),)
    assert not answer.hashes_unknown


def test_an_incomplete_list_of_hashes_counts_as_none(node: SwarmNode) -> None:
    node.provide(BLOB, SIZE, now=0.0, hashes=HASHES[:1])
    (answer,) = answers(tell(node, wanted()), PEERS[1])
    assert isinstance(answer, Have)
    assert answer.hashes_unknown
    assert answer.hashes == ()


def test_a_have_of_one_neighbour_too_many_is_ignored(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, False), now=0.0)
    for peer in PEERS[:NEIGHBOURS_MAX]:
        tell(node, have(peer, b""))
    assert answers(tell(node, have(PEERS[-1], reply_wanted=True)), PEERS[-1]) == []


def test_a_silent_neighbour_makes_room_for_one_that_speaks(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, False, sources=(PEERS[0],)), now=0.0)
    for peer in PEERS[1 : NEIGHBOURS_MAX + 1]:
        tell(node, have(peer, b""))
    (answer,) = answers(tell(node, have(PEERS[NEIGHBOURS_MAX], b"", reply_wanted=True)), PEERS[-3])
    assert isinstance(answer, Have)
    late = tell(node, have(PEERS[-2], b"", reply_wanted=True))
    assert answers(late, PEERS[-2]) == []  # all that are kept have spoken


def test_only_seeds_are_met_when_there_are_enough_neighbours(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, False), now=0.0)
    registered = node._downloads[BLOB].registration
    for peer in PEERS[:NEIGHBOURS_MAX]:
        tell(node, have(peer, b""))
    rendezvous = registered.rendezvous
    assert rendezvous != OWN
    stranger, seed = PEERS[-1], PEERS[-2]
    news = Participants(
        rendezvous, BLOB, registered.number, 40, True, False, True, (stranger,), (seed,)
    )
    effects = tell(node, news)
    assert answers(effects, stranger) == []
    assert len(answers(effects, seed)) == 1


def test_hashes_are_requested_again_at_any_time_and_never_twice_at_once() -> None:
    random = Random(3)
    peer = PEERS[0]
    for _ in range(300):
        now = 1000.0 + random.random() * 1000
        node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=random, now=now)
        node.set_members({peer: AT[peer]}, now=now)
        node.want(BlobWanted(BLOB, SIZE, False, sources=(peer,)), now=now)
        tell(node, have(peer), now=now)
        tell(node, have(peer), now=now + 0.03)  # the timer is set anew: by a sum that is rounded
        effects: list[Effect] = []
        while (deadline := node.next_deadline()) is not None and deadline <= now + 0.35:
            effects += node.advance(now=deadline)
        requests = [m for m in answers(effects, peer) if isinstance(m, HashesWanted)]
        assert 2 <= len(requests) <= 3
