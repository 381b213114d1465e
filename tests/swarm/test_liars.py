"""Liars of several kinds among many: what they cost, who is named, and how distrust ends."""

from dataclasses import dataclass, field
from functools import cache
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import HASH_BYTES, SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.effects import (
    Effect,
    FetchFromPeer,
    PeerForgiven,
    PieceDoubted,
    SendDatagram,
)
from beiran.swarm.integrity.ban_list import DOUBLED_MAX, Distrust
from beiran.swarm.messages import HashesWanted, Have, PieceHash
from beiran.swarm.node import BlobWanted, SwarmNode
from simulations.swarm.blobs import image
from simulations.swarm.host import Host
from simulations.swarm.world import World

CODEC = SwarmCodec("default")
IMAGE_BYTES = 60_000_000
IMAGE = image(1, IMAGE_BYTES)


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

    def _forged(self, host: Host, digest: Digest, told: PieceHash) -> PieceHash:
        if self.only_own and not told.first_hand:
            return told
        marks = (host.name, *host.file.get((digest, told.piece), ()))
        forged = self._transfers.hash_of(host, digest, told.piece, marks)
        return PieceHash(told.piece, forged[:HASH_BYTES], told.first_hand)


@cache
def pull_among_forgers(seed: int) -> tuple[ForgersWorld, list[Host]]:
    """Three of eight forge. Returns the world when all have the image, and the honest."""
    world = ForgersWorld(seed)
    world.publish(IMAGE)
    hosts = world.add_many(8)
    world.forgers = hosts[:3]
    for forger in world.forgers:
        forger.spoils = True
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts, IMAGE), within_s=120)
    return world, hosts[3:]


@pytest.mark.parametrize("seed", range(1, 4))
def test_forgers_are_all_named_and_nobody_else(seed: int) -> None:
    world, honest = pull_among_forgers(seed)
    for host in honest:
        assert set(host.distrusted) == {forger.id for forger in world.forgers}


@pytest.mark.parametrize("seed", range(1, 4))
def test_forgers_cost_the_origin_little_more_than_their_own_share(seed: int) -> None:
    world, honest = pull_among_forgers(seed)
    assert world.origin.sent_bytes < 1.7 * IMAGE_BYTES
    assert not any(host.stuck for host in honest)


def test_a_wrong_piece_costs_that_piece_again_and_not_the_blob() -> None:
    _, honest = pull_among_forgers(1)
    for host in honest:
        doubted = host.node.counters["pieces_doubted"] + host.node.counters["pieces_refused"]
        assert 0 < doubted < 0.3 * IMAGE_BYTES / (512 * 1024)


def test_forgers_of_what_only_they_have_are_found_out_when_the_blob_is_damaged() -> None:
    world = ForgersWorld(2, only_own=True)
    world.publish(IMAGE)
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
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts, IMAGE), within_s=120)
    assert sum(host.node.counters["blobs_damaged"] for host in hosts[1:]) > 0
    for host in hosts[1:]:
        assert set(host.distrusted) == {hosts[0].id}


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
def test_the_honest_get_every_blob_and_distrust_no_honest_one(
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
    liars = {forger.id for forger in world.forgers}
    for host in honest:
        assert set(host.distrusted) <= liars


def test_doubted_pieces_wait_for_an_origin_that_is_away() -> None:
    world = World(4)
    blobs = image(1, 8_000_000)
    world.publish(blobs)
    *seeds, one = world.add_many(4)
    for seed in seeds:
        world.seed_blobs(seed, blobs, hashes=False)
    seeds[0].spoils = True

    def away_when_doubted(line: str) -> None:
        if PieceDoubted.__name__ in line and one.name in line.split()[1] and world.origin.up:
            world.origin.up = False
            world.schedule(world.now + 4.0, lambda: setattr(world.origin, "up", True))
            world.trace = None

    world.trace = away_when_doubted
    world.pull(one, blobs, sources=seeds)
    world.run_until(world.pulled([one], blobs), within_s=60)
    assert world.trace is None
    assert not one.stuck
    assert one.node.counters["fetches_failed_origin_unavailable"] > 0


# --- how distrust ends ----------------------------------------------------------------------

OWN, LIAR = NodeId(b"o" * 16), NodeId(b"l" * 16)
AT = Address("10.0.0.2", 8888)
BLOB = Digest(b"b" * 32)
SIZE = 1024 * 1024


@dataclass
class Pair:
    """A node that wants a blob, and one that gives it other bytes than it announces."""

    node: SwarmNode
    effects: list[Effect] = field(default_factory=list)

    def catch(self, now: float) -> None:
        """It is asked for a piece, gives a wrong one, and stands by its word."""
        fetch = self.asked(now)
        self.node.piece_arrived(fetch.fetch, fetch.first_piece, b"w" * 32, now=now)
        self.node.fetch_done(fetch.fetch, now=now)
        self.node.receive_datagram(CODEC.encode(have((0, 1))), AT, now=now)
        assert LIAR in self.node.distrusted

    def asked(self, now: float) -> FetchFromPeer:
        """What the node asks it for, now that it announces everything."""
        effects = self.node.receive_datagram(CODEC.encode(have((0, 1))), AT, now=now)
        return next(e for e in effects if isinstance(e, FetchFromPeer))


def have(pieces: tuple[int, ...]) -> Have:
    hashes = tuple(PieceHash(piece, b"r" * 16) for piece in pieces)
    return Have(LIAR, BLOB, SIZE, b"\x03", False, False, 0, hashes)


@pytest.fixture
def pair() -> Pair:
    config = SwarmConfig(distrust_s=100.0)
    node = SwarmNode(OWN, cluster="default", config=config, random=Random(1), now=0.0)
    node.set_members({LIAR: AT}, now=0.0, generations={LIAR: 7})
    node.want(BlobWanted(BLOB, SIZE, False, sources=(LIAR,)), now=0.0)
    return Pair(node)


def advance(node: SwarmNode, until: float) -> list[Effect]:
    effects: list[Effect] = []
    while (deadline := node.next_deadline()) is not None and deadline <= until:
        effects += node.advance(now=deadline)
    return effects


def test_distrust_ends_after_its_time_and_the_liar_is_asked_again(pair: Pair) -> None:
    pair.catch(1.0)
    assert PeerForgiven(LIAR) not in advance(pair.node, 100.0)
    effects = advance(pair.node, 101.5)
    assert PeerForgiven(LIAR) in effects
    assert any(isinstance(e, SendDatagram) and e.to == AT for e in effects)
    assert pair.asked(102.0).node == LIAR


def test_a_second_lie_is_remembered_twice_as_long(pair: Pair) -> None:
    pair.catch(1.0)
    advance(pair.node, 102.0)
    pair.catch(103.0)
    advance(pair.node, 302.0)
    assert LIAR in pair.node.distrusted
    advance(pair.node, 304.0)
    assert LIAR not in pair.node.distrusted


def test_who_was_started_again_is_trusted_again(pair: Pair) -> None:
    pair.catch(1.0)
    same = pair.node.set_members({LIAR: AT}, now=2.0, generations={LIAR: 7})
    assert PeerForgiven(LIAR) not in same
    effects = pair.node.set_members({LIAR: AT}, now=3.0, generations={LIAR: 8})
    assert PeerForgiven(LIAR) in effects
    assert not pair.node.distrusted
    assert pair.asked(4.0).node == LIAR


def test_being_away_for_a_moment_does_not_end_distrust(pair: Pair) -> None:
    pair.catch(1.0)
    pair.node.set_members({}, now=2.0)
    pair.node.set_members({LIAR: AT}, now=3.0, generations={LIAR: 7})
    assert LIAR in pair.node.distrusted


def test_distrust_is_not_doubled_for_ever_and_ends_with_membership() -> None:
    distrust = Distrust(SwarmConfig(distrust_s=10.0))
    for lies in range(DOUBLED_MAX + 3):
        assert distrust.begin(LIAR, "a reason", None) == 10.0 * 2 ** min(lies, DOUBLED_MAX)
        assert distrust.restarted({LIAR: 9}) == []  # in which generation it lied is not known
        assert distrust.end(LIAR)
    assert not distrust.end(LIAR)
    distrust.forget(but=[LIAR])
    assert distrust.begin(LIAR, "a reason", 1) > 10.0
    distrust.forget(but=[])
    assert LIAR in distrust.reasons  # not forgotten while it is distrusted
    distrust.end(LIAR)
    distrust.forget(but=[])
    assert distrust.begin(LIAR, "a reason", 1) == 10.0


def test_whom_we_do_not_know_to_be_distrusted_is_not_forgiven() -> None:
    context = Context(OWN, SwarmConfig(), CODEC, Random(1), 0.0)
    context.forgive(LIAR)
    assert not context.effects


def test_hashes_are_asked_for_again_at_whatever_time_and_never_twice_in_one_moment() -> None:
    random = Random(3)
    for _ in range(300):
        now = 1000.0 + random.random() * 1000
        node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=random, now=now)
        node.set_members({LIAR: AT}, now=now)
        node.want(BlobWanted(BLOB, SIZE, False, sources=(LIAR,)), now=now)
        node.receive_datagram(CODEC.encode(have(())), AT, now=now)
        late = now + 0.03  # the timer is set anew from here: a sum that is rounded
        node.receive_datagram(CODEC.encode(have(())), AT, now=late)
        effects = advance(node, now + 0.35)
        sent = [CODEC.decode_untrusted(e.data) for e in effects if isinstance(e, SendDatagram)]
        assert 2 <= sum(isinstance(message, HashesWanted) for message in sent) <= 3
