"""Bugs planted in the core, one at a time. ``explore`` finds each within ``SEEDS_MAX`` seeds.

They measure how well a search of random scenarios finds bugs.
"""

from collections.abc import Callable
from typing import Any

import pytest

from beiran.gossip import dissemination
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_updates import MemberUpdates
from beiran.gossip.membership.own_member import OwnMember
from beiran.gossip.membership.suspicion_protocol import SuspicionProtocol
from beiran.gossip.messages import Alive, Delta
from beiran.gossip.possession.holdings import Holdings
from beiran.gossip.possession.image_descriptions import Descriptions
from beiran.gossip.possession.owner_log import Change, OwnerLog, Possession
from beiran.gossip.possession.push_pull import PushPull
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding
from simulations.explore.clusters import CLUSTERS

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS_MAX = 300
PLANTED: list[Plant] = []
NOT_BEFORE = {
    "floor_stays_when_tombstones_go": 80,
    "old_alive_brings_back_a_member_that_left": 240,
    "state_hash_misses_status": 60,
    "next_version_is_one_that_others_may_have": 255,
}
"""Seeds below do not catch it: left out here to save time, each costs 0.1 s."""


def planted(plant: Plant) -> Plant:
    PLANTED.append(plant)
    return plant


@planted
def graver_status_wins_over_refutation(patch: pytest.MonkeyPatch) -> None:
    def precedence(member: Member) -> tuple[int, int, int]:
        return (member.generation, member.status, member.incarnation)

    patch.setattr(Member, "precedence", property(precedence))


@planted
def generation_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def precedence(member: Member) -> tuple[int, int, int]:
        return (0, member.incarnation, member.status)

    patch.setattr(Member, "precedence", property(precedence))


@planted
def released_leaves_no_tombstone(patch: pytest.MonkeyPatch) -> None:
    release = Possession._release

    def forgetful(self: Possession, log: OwnerLog, image: Digest, version: int) -> None:
        release(self, log, image, version)
        log.released.pop(image, None)

    patch.setattr(Possession, "_release", forgetful)


@planted
def floor_stays_when_tombstones_go(patch: pytest.MonkeyPatch) -> None:
    release = Possession._release

    def release_only(self: Possession, log: OwnerLog, image: Digest, version: int) -> None:
        floor = log.floor
        release(self, log, image, version)
        log.floor = floor

    patch.setattr(Possession, "_release", release_only)


@planted
def tombstones_stay_for_ever(patch: pytest.MonkeyPatch) -> None:
    init = Possession.__init__

    def boundless(self: Possession, *tables: Any, tombstones_max: int) -> None:
        init(self, *tables, tombstones_max=100 * tombstones_max)

    patch.setattr(Possession, "__init__", boundless)


@planted
def refutation_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwnMember, "refute", lambda self, generation, incarnation: None)


@planted
def suspicion_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SuspicionProtocol, "decide", lambda self, node: None)


@planted
def old_alive_brings_back_a_member_that_left(patch: pytest.MonkeyPatch) -> None:
    take = MemberUpdates._take_alive

    def trusting(self: MemberUpdates, alive: Alive, heard_from: NodeId) -> bool:
        members = self._context.members
        known = members.get(alive.node)
        if known is not None and known.status == Status.LEFT:
            members.forget(alive.node)
        return take(self, alive, heard_from)

    patch.setattr(MemberUpdates, "_take_alive", trusting)


@planted
def delta_is_applied_over_a_gap(patch: pytest.MonkeyPatch) -> None:
    apply = Possession.apply

    def careless(self: Possession, delta: Delta) -> Change | None:
        known = self.version(delta.owner)
        if 0 < known < delta.since:
            delta = Delta(delta.owner, known, delta.version, delta.held, delta.released)
        return apply(self, delta)

    patch.setattr(Possession, "apply", careless)
    patch.setattr(Possession, "is_gap", lambda self, delta: False)


@planted
def reset_keeps_what_was_there(patch: pytest.MonkeyPatch) -> None:
    apply = Possession.apply

    def additive(self: Possession, delta: Delta) -> Change | None:
        if delta.since == 0 and self.version(delta.owner) < delta.version:
            known = max(1, self.version(delta.owner))
            self._changing(delta.owner).version = known
            delta = Delta(delta.owner, known, delta.version, delta.held, delta.released)
        return apply(self, delta)

    patch.setattr(Possession, "apply", additive)


@planted
def state_hash_misses_versions(patch: pytest.MonkeyPatch) -> None:
    from beiran.gossip.membership import member_table as membership
    from beiran.gossip.possession import state_hash

    patch.setattr(
        membership, "entry_hash", lambda member, version: state_hash.entry_hash(member, 0)
    )


@planted
def state_hash_misses_status(patch: pytest.MonkeyPatch) -> None:
    from msgspec.structs import replace

    from beiran.gossip.membership import member_table as membership
    from beiran.gossip.possession import state_hash

    def whatever_its_status(member: Member, version: int) -> int:
        return state_hash.entry_hash(replace(member, status=Status.ALIVE), version)

    patch.setattr(membership, "entry_hash", whatever_its_status)


@planted
def state_hashes_are_never_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PushPull, "_compare", lambda self, member, state_hash: None)


@planted
def others_knowing_a_later_version_of_us_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holdings, "outgrow", lambda self, version: None)


@planted
def next_version_is_one_that_others_may_have(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("beiran.gossip.possession.holdings.OUTGROW_BY_MAX", 1)


@planted
def descriptions_are_never_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Descriptions, "drop_unheld", lambda self, images: None)


@planted
def datagrams_outgrow_their_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dissemination, "NEWS_BYTES_MAX", 1600)


@planted
def names_of_a_holding_never_change(patch: pytest.MonkeyPatch) -> None:
    put = Possession._put

    def once(self: Possession, log: OwnerLog, holding: Holding, version: int) -> None:
        known = log.held.get(holding.image)
        put(self, log, known[1] if known is not None else holding, version)

    patch.setattr(Possession, "_put", once)


@planted
def address_of_a_member_never_changes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwnMember, "move_to", lambda self, address: _check(address))


def _check(address: Address) -> None:
    assert address.port


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    seeds = range(NOT_BEFORE.get(plant.__name__, 0), SEEDS_MAX)
    assert any(CLUSTERS.explore_one(seed) is not None for seed in seeds)
