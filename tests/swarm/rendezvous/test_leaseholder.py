"""A node that holds leases: what it fetches and reports."""

from random import Random

from beiran.swarm.config import SwarmConfig
from beiran.swarm.effects import CancelFetch, FetchFromOrigin
from beiran.swarm.messages import (
    Grant,
    LeaseAnswer,
    LeaseReport,
    LeaseState,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from simulations.swarm.blobs import Blob
from simulations.swarm.host import Host, Transfer
from simulations.swarm.world import World
from tests.swarm.three_nodes import AT, BLOB, CODEC, OWN, PIECE, A, sent


def leaseholder() -> tuple[SwarmNode, FetchFromOrigin]:
    """A node that holds a lease of another, and its fetch."""
    node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members(AT, now=0.0)
    node.want(BlobWanted(BLOB, PIECE, True), now=0.0)
    grant = CODEC.encode(Grant(A, BLOB, 7, 0, 1))
    effects = node.receive_datagram(grant, AT[A], now=0.0)
    return node, next(e for e in effects if isinstance(e, FetchFromOrigin))


def reports(node: SwarmNode, until: float) -> list[LeaseReport]:
    found: list[LeaseReport] = []
    while (deadline := node.next_deadline()) is not None and deadline <= until:
        messages = sent(node.advance(now=deadline))
        found += [message for message in messages if isinstance(message, LeaseReport)]
    return found


def test_reports_say_throttled_until_bytes_come() -> None:
    node, fetch = leaseholder()
    assert [r.throttled for r in reports(node, 0.3)] == [False]
    node.fetch_throttled(fetch.fetch, now=0.3)
    assert {r.throttled for r in reports(node, 1.0)} == {True}
    node.fetch_progressed(fetch.fetch, 1000, now=1.0)
    assert {r.throttled for r in reports(node, 1.5)} == {False}
    node.fetch_throttled(fetch.fetch, now=1.5)
    assert {r.throttled for r in reports(node, 2.0)} == {True}
    node.fetch_answered(fetch.fetch, now=2.0)
    assert {r.throttled for r in reports(node, 2.5)} == {False}
    node.fetch_throttled(fetch.fetch, now=2.5)
    _, done = node.piece_arrived(fetch.fetch, 0, b"h" * 32, now=2.6)
    done += node.fetch_done(fetch.fetch, now=2.6)
    (last,) = [m for m in sent(done) if isinstance(m, LeaseReport)]
    assert last == LeaseReport(OWN, BLOB, 7, PIECE, LeaseState.DONE)


def test_throttling_of_an_unknown_or_lost_fetch_has_no_effect() -> None:
    node, fetch = leaseholder()
    assert node.fetch_throttled(99, now=0.1) == []
    lost = node.receive_datagram(CODEC.encode(LeaseAnswer(A, BLOB, 7)), AT[A], now=0.2)
    assert CancelFetch(fetch.fetch) in lost
    assert node.fetch_throttled(fetch.fetch, now=0.3) == []


class OneAtOnce(World):
    """Hosts whose own limit lets them fetch but one range from the origin at once."""

    def __init__(self, seed: int, *, reports_it: bool = True) -> None:
        super().__init__(seed)
        self.reports_it = reports_it
        ask = self._transfers._ask_origin

        def ask_when_free(host: Host, transfer: Transfer) -> None:
            others = [t for t in host.transfers.values() if t.giver is None and t.flow is not None]
            if not others:
                ask(host, transfer)
                return
            if self.reports_it:
                self.do(host, host.node.fetch_throttled(transfer.fetch, now=self.now))
            self._transfers._later(0.05, host, transfer, ask_when_free)

        self._transfers._ask_origin = ask_when_free  # type: ignore[method-assign]


def test_leases_are_kept_when_all_participants_are_throttled() -> None:
    given_on = []
    for reports_it in (False, True):
        world = OneAtOnce(1, reports_it=reports_it)
        blobs = [Blob("slow", 8 * 1024 * 1024)]
        world.origin.pipe.bytes_per_s = 400_000.0
        world.publish(blobs)
        hosts = world.add_many(2)
        for host in hosts:
            world.pull(host, blobs)
        world.run_until(world.pulled(hosts, blobs), within_s=600)
        given_on.append(sum(host.node.counters["leases_given_on"] for host in hosts))
        copies = world.origin.sent_bytes / blobs[0].size_bytes
    assert given_on[1] < given_on[0]
    assert given_on[1] == 0
    assert copies == 1.0


def test_dropping_a_blob_gives_its_leases_back() -> None:
    node, _ = leaseholder()
    states = [m.state for m in sent(node.drop(BLOB, now=0.2)) if isinstance(m, LeaseReport)]
    assert states == [LeaseState.FAILED]
    late = node.receive_datagram(CODEC.encode(Grant(A, BLOB, 8, 0, 1)), AT[A], now=0.2)
    assert [m.state for m in sent(late) if isinstance(m, LeaseReport)] == [LeaseState.FAILED]
