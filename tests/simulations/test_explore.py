"""Scenarios print as Python, are read back, and shrink to what matters."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beiran.errors import SettingsError
from beiran.gossip.effects import HoldingsChanged, MemberChanged
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.membership.suspicion_protocol import SuspicionProtocol
from simulations.explore.clusters import CLUSTERS, generate
from simulations.gossip.catalogue import MAKERS
from simulations.gossip.checkers import SICK_AFTER_S, Checkers
from simulations.gossip.operations import (
    At,
    Clone,
    Crash,
    Hold,
    Lose,
    PowerOff,
    Release,
    Restart,
    Split,
    Stop,
)
from simulations.gossip.scenario import Scenario, play, read_scenario
from simulations.gossip.world import World

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", range(40))
def test_a_scenario_prints_as_python_that_makes_it(seed: int) -> None:
    scenario = generate(seed)
    assert read_scenario(repr(scenario)) == scenario


@pytest.mark.parametrize(
    "text",
    ["", "1", "Scenario(", "Scenario(seed=1)", "print(1)", "At(1.0, Crash(1))", "Scenario(x=2)"],
)
def test_other_text_is_no_scenario(text: str) -> None:
    with pytest.raises(SettingsError):
        read_scenario(text)


def test_a_scenario_reads_as_a_list_of_what_happens() -> None:
    scenario = Scenario(7, 5, (At(3.0, Crash(2)), At(9.5, Restart(2, wiped=True))))
    assert repr(scenario) == (
        "Scenario(\n    seed=7,\n    nodes=5,\n    operations=(\n"
        "        At(3.0, Crash(2)),\n        At(9.5, Restart(2, wiped=True)),\n    ),\n)"
    )


@pytest.mark.parametrize("seed", range(60))
def test_random_scenarios_violate_nothing(seed: int) -> None:
    outcome = play(generate(seed))
    assert outcome.violation is None, f"{outcome.violation}\n{outcome.scenario!r}"
    assert outcome.converged_after_s is not None


def test_what_breaks_is_shrunk_to_what_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SuspicionProtocol, "decide", lambda self, node: None)
    off = At(6.0, PowerOff(1))
    around = (At(1.0, Hold(0, "a")), At(2.0, Lose(0.02)), At(8.0, Release(0, "a")))
    after = (At(9.0, Clone(3)), At(9.5, Stop(2, 1.0)))
    outcome = play(Scenario(3, 6, (*around, off, *after), loss=0.02, calm_s=5.0))
    assert outcome.violation is not None
    small = CLUSTERS.shrink(outcome)
    assert small.violation is not None
    assert small.violation.invariant == outcome.violation.invariant
    assert [at.do for at in small.scenario.operations] == [PowerOff(1)]
    assert small.scenario.nodes < 6
    assert small.scenario.loss == 0.0


@pytest.mark.parametrize("name", MAKERS)
def test_every_scenario_with_a_name_keeps_all_promises(name: str) -> None:
    outcome = play(MAKERS[name](9, 1, 0.0))
    assert outcome.violation is None, str(outcome.violation)
    assert outcome.converged_after_s is not None


@pytest.mark.parametrize("name", ["crash", "image", "leave"])
def test_large_clusters_begin_settled(name: str) -> None:
    scenario = MAKERS[name](120, 1, 0.0)
    assert scenario.settled
    outcome = play(scenario)
    assert outcome.violation is None, str(outcome.violation)


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

    def test_a_verdict_on_who_is_well(self) -> None:
        world, checkers = self.world(SICK_AFTER_S + 5.0)
        effect = MemberChanged(self.member(world, Status.DOWN), Status.SUSPECT, "no answer")
        for found in world.found:
            found(world.hosts[0], effect)
        assert self.invariant(checkers) == "well and declared down"

    def test_no_verdict_on_who_was_unwell_lately(self) -> None:
        world, checkers = self.world(SICK_AFTER_S + 5.0)
        world.stop(world.hosts[1], 3.0)
        world.run(6.0)
        effect = MemberChanged(self.member(world, Status.DOWN), Status.SUSPECT, "no answer")
        for found in world.found:
            found(world.hosts[0], effect)
        assert checkers.violation is None

    def test_who_left_and_is_online_again(self) -> None:
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


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "simulations", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def test_list_names_every_scenario(self) -> None:
        code, out, _ = self.run("list")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == list(MAKERS)

    def test_run_tells_figures_and_a_profile(self) -> None:
        code, out, err = self.run("run", "crash", "--nodes", "5", "--profile")
        assert (code, err) == (0, "")
        assert "packets_per_node_s" in out
        assert "receive_datagram" in out

    def test_run_plays_what_explore_prints(self, tmp_path: Path) -> None:
        file = tmp_path / "found.py"
        file.write_text(repr(Scenario(1, 4, (At(1.0, Split(((0, 1), (2, 3)))),))))
        code, out, _ = self.run("run", str(file), "--trace", str(tmp_path / "trace"))
        assert code == 0
        assert "sha256" in out
        assert (tmp_path / "trace").read_text().count("\n") > 100

    def test_explore_counts_what_it_played(self) -> None:
        code, out, _ = self.run("explore", "--seeds", "3..6", "--jobs", "2")
        assert code == 0
        assert out.startswith("4 scenarios, no violation")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("run", "nothing"),
            ("run", "crash", "--nodes", "0"),
            ("explore", "--seeds", "many"),
            ("dance",),
        ],
    )
    def test_wrong_usage_is_one_line(self, arguments: tuple[str, ...]) -> None:
        code, _, err = self.run(*arguments)
        assert code == 2
        assert len(err.splitlines()) == 1
