"""Each invariant of a cluster notices what it is there for."""

from collections.abc import Callable

import pytest

from beiran.gossip.effects import HoldingsChanged, MemberChanged
from beiran.gossip.membership.member import Member, Status
from simulations.gossip.checkers import SICK_AFTER_S, Checkers
from simulations.gossip.world import World


class TestCheckers:
    """Each sees what it is there to see."""

    def world(self, calm_s: float) -> tuple[World, Checkers]:
        world = World(5)
        checkers = Checkers(world)
        world.cluster(3)
        world.run(calm_s)
        assert checkers.violation is None
        return world, checkers

    def invariant(self, checkers: Checkers) -> str:
        assert checkers.violation is not None
        return checkers.violation.invariant

    def member(self, world: World, status: Status, *, generation: int = 0) -> Member:
        own = world.hosts[1].node.own
        return Member(own.node, own.name, own.address, own.generation + generation, 9, status)

    def test_versions_that_go_back(self) -> None:
        world, checkers = self.world(1.0)
        host = world.hosts[0]
        for version in (2**45, 2**45 - 1):
            for found in world.found:
                found(host, HoldingsChanged(host.id, version))
        assert self.invariant(checkers) == "version goes backwards"

    def test_a_verdict_on_a_host_that_is_well(self) -> None:
        world, checkers = self.world(SICK_AFTER_S + 5.0)
        effect = MemberChanged(self.member(world, Status.DOWN), Status.SUSPECT, "no answer")
        for found in world.found:
            found(world.hosts[0], effect)
        assert self.invariant(checkers) == "well and declared down"

    def test_a_verdict_on_a_host_that_was_stopped_lately_is_no_violation(self) -> None:
        world, checkers = self.world(SICK_AFTER_S + 5.0)
        world.stop(world.hosts[1], 3.0)
        world.run(6.0)
        effect = MemberChanged(self.member(world, Status.DOWN), Status.SUSPECT, "no answer")
        for found in world.found:
            found(world.hosts[0], effect)
        assert checkers.violation is None

    def test_a_host_that_left_and_is_online_again(self) -> None:
        world, checkers = self.world(1.0)
        left = MemberChanged(self.member(world, Status.LEFT), Status.ALIVE)
        back = MemberChanged(self.member(world, Status.ALIVE, generation=1), Status.LEFT)
        for found in world.found:
            found(world.hosts[0], left)
            found(world.hosts[0], back)
        assert checkers.violation is None
        resurrected = MemberChanged(self.member(world, Status.ALIVE), Status.LEFT)
        for found in world.found:
            found(world.hosts[0], resurrected)
        assert self.invariant(checkers) == "left and resurrected"

    @pytest.mark.parametrize(
        ("break_it", "invariant"),
        [
            (lambda world: world.network.partition([0], [1, 2]), "views differ"),
            (lambda world: world.hosts[1].engine.update({b"x" * 32: None}), "listed and not held"),
        ],
    )
    def test_unrest_at_rest(self, break_it: Callable[[World], None], invariant: str) -> None:
        world, checkers = self.world(1.0)
        break_it(world)
        world.run(30.0)
        checkers.at_rest()
        assert self.invariant(checkers) == invariant
