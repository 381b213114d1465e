"""Damaged blobs, audits, forged hashes: what they cost, and which peers are banned."""

from functools import cache

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.gossip.membership.member import Address
from beiran.ids import Digest
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import HASH_BYTES
from beiran.swarm.effects import PieceRevoked
from beiran.swarm.messages import Have, PieceHash
from simulations.swarm.blobs import image
from simulations.swarm.host import Host
from simulations.swarm.world import MBIT, World
from tests.swarm.pulling import BIG, IMAGE, crowd

LAYER_BYTES = 60_000_000
LAYER = image(1, LAYER_BYTES)
CODEC = SwarmCodec("default")


def test_peers_that_corrupt_bytes_are_banned_and_no_wrong_piece_accepted() -> None:
    world = World(4)
    world.publish(IMAGE)
    hosts = world.add_many(8)
    corrupt = hosts[:3]
    for host in corrupt:
        host.spoils = True
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts, IMAGE), within_s=120)
    assert world.wrong_accepted == 0
    named = {node for host in hosts for node in host.bans}
    assert named == {host.id for host in corrupt}


def test_seeds_that_corrupt_bytes_are_banned_and_replaced() -> None:
    world = World(4)
    seeds = world.add_many(8)
    one = world.add(down=1000 * MBIT)
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, BIG)
    for seed in seeds[:3]:
        seed.spoils = True
    world.pull(one, BIG, sources=seeds, from_origin=False)
    world.run_until(world.pulled([one], BIG), within_s=60)
    assert world.wrong_accepted == 0
    assert set(one.bans) == {seed.id for seed in seeds[:3]}


def test_corrupt_seeds_without_hashes_are_noticed_once_the_blob_is_whole() -> None:
    world = World(4)
    world.publish(IMAGE)
    seeds = world.add_many(4)
    one = world.add()
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, IMAGE, hashes=False)
    seeds[0].spoils = True
    trace: list[str] = []
    world.trace = trace.append
    world.pull(one, IMAGE, sources=seeds)
    world.run_until(world.pulled([one], IMAGE), within_s=120)
    assert any(PieceRevoked.__name__ in line for line in trace)
    assert world.origin.sent_bytes > 0


def test_a_damaged_blob_without_origin_is_fetched_again_from_others() -> None:
    world = World(4)
    seeds = world.add_many(3)
    one = world.add()
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, IMAGE, hashes=False)
    seeds[0].spoils = True
    world.pull(one, IMAGE, sources=seeds, from_origin=False)
    world.run(120)
    assert one.done_at.keys() | one.stuck.keys() == {blob.digest for blob in IMAGE}


def test_an_only_source_with_wrong_bytes_ends_as_stuck() -> None:
    world = World(4)
    seed, one = world.add_many(2)
    world.seed_blobs(seed, IMAGE, hashes=False)
    seed.spoils = True
    world.pull(one, IMAGE, sources=[seed], from_origin=False)
    world.run(60)
    assert set(one.stuck) == {blob.digest for blob in IMAGE}
    assert not one.transfers


def test_an_origin_that_gives_wrong_bytes_ends_as_stuck() -> None:
    world = World()
    world.origin.spoils = True
    hosts = crowd(world, 1)
    world.run(30)
    assert set(hosts[0].stuck) == {blob.digest for blob in IMAGE}
    assert all("the origin gives" in reason for reason in hosts[0].stuck.values())


def test_a_peer_whose_hashes_match_its_wrong_bytes_is_banned() -> None:
    world = World(8)
    world.publish(IMAGE)
    hosts = world.add_many(5)
    hosts[0].spoils = hosts[0].lies = True
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts[1:], IMAGE), within_s=120)
    assert all(set(host.bans) <= {hosts[0].id} for host in hosts[1:])
    assert not any(host.stuck for host in hosts[1:])


class ForgersWorld(World):
    """Some hosts announce hashes of their own, which their (spoiled) bytes fit.

    ``only_own``: just of pieces that they had from the origin; what they pass on is right.
    """

    def __init__(self, seed: int, *, only_own: bool = False) -> None:
        super().__init__(seed)
        self.forgers: list[Host] = []
        self.only_own = only_own

    def send(self, host: Host, to: Address, data: bytes) -> None:
        if host in self.forgers:
            message = CODEC.decode_untrusted(data)
            if isinstance(message, Have):
                hashes = tuple(self._forged(host, message.digest, each) for each in message.hashes)
                data = CODEC.encode(msgspec.structs.replace(message, hashes=hashes))
        super().send(host, to, data)

    def _forged(self, host: Host, digest: Digest, claim: PieceHash) -> PieceHash:
        if self.only_own and not claim.first_hand:
            return claim
        marks = (host.name, *host.file.get((digest, claim.piece), ()))
        forged = self._transfers.hash_of(host, digest, claim.piece, marks)
        return PieceHash(claim.piece, forged[:HASH_BYTES], claim.first_hand)


@cache
def pull_among_forgers(seed: int) -> tuple[ForgersWorld, list[Host]]:
    """Three of eight forge. Returns the world when all have the image, and the honest."""
    world = ForgersWorld(seed)
    world.publish(LAYER)
    hosts = world.add_many(8)
    world.forgers = hosts[:3]
    for forger in world.forgers:
        forger.spoils = True
    for host in hosts:
        world.pull(host, LAYER)
    world.run_until(world.pulled(hosts, LAYER), within_s=120)
    return world, hosts[3:]


@pytest.mark.parametrize("seed", range(1, 4))
def test_peers_that_forge_hashes_are_banned_and_no_other(seed: int) -> None:
    world, honest = pull_among_forgers(seed)
    for host in honest:
        assert set(host.bans) == {forger.id for forger in world.forgers}


@pytest.mark.parametrize("seed", range(1, 4))
def test_forged_hashes_cost_the_origin_little(seed: int) -> None:
    world, honest = pull_among_forgers(seed)
    assert world.origin.sent_bytes < 1.7 * LAYER_BYTES
    assert not any(host.stuck for host in honest)


def test_a_wrong_piece_costs_that_piece_and_not_the_blob() -> None:
    _, honest = pull_among_forgers(1)
    for host in honest:
        doubted = host.node.counters["pieces_doubted"] + host.node.counters["pieces_refused"]
        assert 0 < doubted < 0.3 * LAYER_BYTES / (512 * 1024)


def test_forgers_of_first_hand_pieces_are_banned_once_the_blob_is_damaged() -> None:
    world = ForgersWorld(2, only_own=True)
    world.publish(LAYER)
    hosts = world.add_many(6)
    world.forgers = hosts[:1]

    def spoils_own(host: Host, digest: Digest, piece: int) -> bool:
        download = host.node._downloads.get(digest)
        return download is not None and bool(download.first_hand >> piece & 1)

    write = world._transfers._write

    def write_and_spoil(host: Host, transfer, piece: int):  # type: ignore[no-untyped-def]
        giver = transfer.giver
        if giver in world.forgers:
            giver.spoils = spoils_own(giver, transfer.digest, piece)
        return write(host, transfer, piece)

    world._transfers._write = write_and_spoil  # type: ignore[method-assign]
    for host in hosts:
        world.pull(host, LAYER)
    world.run_until(world.pulled(hosts, LAYER), within_s=120)
    assert sum(host.node.counters["blobs_damaged"] for host in hosts[1:]) > 0
    for host in hosts[1:]:
        assert set(host.bans) == {hosts[0].id}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    st.integers(0, 2**32),
    st.integers(3, 8),
    st.sampled_from([0.0, 0.05, 0.2]),
    st.booleans(),
    st.sampled_from(["", "kill", "origin"]),
)
def test_honest_nodes_get_every_blob_and_ban_no_honest_one(
    seed: int, count: int, loss: float, only_own: bool, mishap: str
) -> None:
    world = ForgersWorld(seed, only_own=only_own)
    world.network.change(loss=loss)
    world.duplication = loss
    blobs = image(2, 12_000_000)
    world.publish(blobs)
    hosts = world.add_many(count)
    world.forgers = hosts[: count // 3]
    for forger in world.forgers:
        forger.spoils = True
    for host in hosts:
        world.pull(host, blobs)
    world.run(1.0)
    if mishap == "kill":
        world.kill(hosts[-1])
    elif mishap == "origin":
        world.origin.up = False
        world.schedule(world.now + 2.0, lambda: setattr(world.origin, "up", True))
    honest = hosts[len(world.forgers) :]
    world.run_until(world.pulled(honest, blobs), within_s=120)
    forgers = {forger.id for forger in world.forgers}
    for host in honest:
        assert set(host.bans) <= forgers


def test_revoked_pieces_wait_for_an_origin_that_is_away() -> None:
    world = World(4)
    blobs = image(1, 8_000_000)
    world.publish(blobs)
    *seeds, one = world.add_many(4)
    for seed in seeds:
        world.seed_blobs(seed, blobs, hashes=False)
    seeds[0].spoils = True

    def away_when_doubted(line: str) -> None:
        if PieceRevoked.__name__ in line and one.name in line.split()[1] and world.origin.up:
            world.origin.up = False
            world.schedule(world.now + 4.0, lambda: setattr(world.origin, "up", True))
            world.trace = None

    world.trace = away_when_doubted
    world.pull(one, blobs, sources=seeds)
    world.run_until(world.pulled([one], blobs), within_s=60)
    assert world.trace is None
    assert not one.stuck
    assert one.node.counters["fetches_failed_origin_unavailable"] > 0
