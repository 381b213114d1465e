"""A blob's life: wanted, complete, verified, served, forgotten; or stuck."""

import pytest

from beiran.swarm.config import SwarmConfig
from beiran.swarm.effects import BlobComplete, CancelFetch
from beiran.swarm.messages import (
    Leave,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.swarm.pieces import cut
from simulations.swarm.blobs import Blob
from simulations.swarm.world import World
from tests.swarm.pulling import IMAGE, crowd
from tests.swarm.single_node import (
    BLOB,
    HASHES,
    PEERS,
    SIZE,
    answers,
    have,
    pull_alone,
    tell,
    wanted,
)


def test_calls_about_an_unknown_blob_have_no_effects(node: SwarmNode) -> None:
    assert tell(node, wanted()) == []
    assert node.prefix_from_origin_bytes(BLOB) == 0
    assert node.verified(BLOB, now=0.1) == []
    assert node.withdraw(BLOB, now=0.1) == []
    assert node.drop(BLOB, now=0.1) == []


def test_a_blob_cannot_be_wanted_in_two_sizes(node: SwarmNode) -> None:
    node.want(BlobWanted(BLOB, SIZE, True), now=0.0)
    with pytest.raises(ValueError, match="another size"):
        node.want(BlobWanted(BLOB, SIZE + 1, True), now=0.0)


def test_the_whole_blob_is_prefix_when_all_of_it_came_from_the_origin(node: SwarmNode) -> None:
    pull_alone(node)
    assert node.prefix_from_origin_bytes(BLOB) == SIZE


def test_withdrawing_a_lingering_blob_leaves_its_swarm(node: SwarmNode) -> None:
    pull_alone(node)
    tell(node, have(PEERS[1], b"", reply_wanted=True))
    effects = node.withdraw(BLOB, now=1.0)
    messages = [m for peer in PEERS for m in answers(effects, peer)]
    assert any(isinstance(message, Leave) for message in messages)
    assert node.progress(BLOB) is None


def test_restored_pieces_beyond_the_blob_are_ignored(node: SwarmNode) -> None:
    held = dict(enumerate(HASHES)) | {7: b"7" * 32}
    effects = node.want(BlobWanted(BLOB, SIZE, True), now=0.0, pieces_held=held)
    assert BlobComplete(BLOB) in effects


def test_a_stuck_blob_continues_when_a_source_appears() -> None:
    world = World()
    one, seed = world.add_many(2)
    world.pull(one, IMAGE, from_origin=False)
    world.run(10)
    assert one.stuck
    world.seed_blobs(seed, IMAGE)
    world.pull(one, IMAGE, sources=[seed], from_origin=False)
    world.run_until(world.pulled([one], IMAGE), within_s=60)


def test_a_restarted_node_continues_with_the_pieces_it_has() -> None:
    world = World()
    hosts = crowd(world, 1)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    again = world.add()
    blob = IMAGE[0]
    held = dict(hosts[0].node._complete_blobs[blob.digest].hashes)
    del held[3]
    again.sizes[blob.digest] = blob.size_bytes
    for piece in held:
        again.file[blob.digest, piece] = ()
    wanted = BlobWanted(blob.digest, blob.size_bytes, True)
    world.do(again, again.node.want(wanted, now=world.now, pieces_held=held))
    world.run_until(world.pulled([again], [blob]), within_s=60)
    assert [piece for _, piece in again.accepted] == [3]


def test_an_empty_blob_is_complete_at_once() -> None:
    world = World()
    one = world.add()
    world.pull(one, [Blob("empty", 0)])
    world.run_until(world.pulled([one], [Blob("empty", 0)]), within_s=1)


def test_only_held_bytes_may_be_sent() -> None:
    world = World()
    hosts = crowd(world, 2)
    world.run(1.0)
    node, blob = hosts[0].node, IMAGE[0]
    held = [piece for digest, piece in hosts[0].accepted if digest == blob.digest]
    assert held
    size = cut(blob.size_bytes).piece_bytes
    assert node.holds(blob.digest, held[0] * size, held[0] * size + 10)
    assert not node.holds(blob.digest, 0, blob.size_bytes)
    assert not node.holds(blob.digest, 10, 10)
    assert not node.holds(IMAGE[1].digest, 0, 1)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert node.holds(blob.digest, 0, blob.size_bytes)
    assert not node.holds(blob.digest, 0, blob.size_bytes + 1)
    world.do(hosts[0], node.withdraw(blob.digest, now=world.now))
    assert not node.holds(blob.digest, 0, 1)


def test_the_prefix_from_the_origin_grows_while_one_pulls_alone() -> None:
    world = World()
    hosts = crowd(world, 1)
    node, digest = hosts[0].node, IMAGE[0].digest
    seen = [node.prefix_from_origin_bytes(digest)]
    while digest not in hosts[0].done_at:
        world.run(0.2)
        if node.progress(digest) is not None and digest not in hosts[0].done_at:
            seen.append(node.prefix_from_origin_bytes(digest))
    assert seen == sorted(seen)
    assert seen[-1] > IMAGE[0].size_bytes // 2


def test_dropping_a_blob_cancels_its_fetches() -> None:
    world = World()
    hosts = crowd(world, 2)
    world.run(1.0)
    effects = hosts[0].node.drop(IMAGE[0].digest, now=world.now)
    assert any(isinstance(effect, CancelFetch) for effect in effects)
    assert hosts[0].node.progress(IMAGE[0].digest) is None


def test_no_timer_is_set_once_no_blob_is_wanted() -> None:
    world = World(config=SwarmConfig(linger_s=2.0))
    hosts = crowd(world, 3)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    world.run(30)
    assert [host.node.next_deadline() for host in hosts] == [None] * 3
