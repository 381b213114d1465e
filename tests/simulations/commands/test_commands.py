"""The command line: what it prints, its exit codes, and what it says of wrong usage."""

import subprocess
import sys
from pathlib import Path

import pytest

from simulations.gossip.catalogue import MAKERS
from simulations.gossip.operations import At, Split
from simulations.gossip.scenario import Scenario
from simulations.swarm.operations import Flip
from simulations.swarm.scenario import Crowd

ROOT = Path(__file__).parents[3]
MB = 1_000_000


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "simulations", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class TestClusters:
    def test_list_names_every_scenario(self) -> None:
        code, out, _ = run("list")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == list(MAKERS)

    def test_run_prints_figures_and_a_profile(self) -> None:
        code, out, err = run("run", "crash", "--nodes", "5", "--profile")
        assert (code, err) == (0, "")
        assert "packets_per_node_s" in out
        assert "function calls" in out
        assert "beiran/gossip" in out

    def test_run_plays_what_explore_prints(self, tmp_path: Path) -> None:
        file = tmp_path / "found.py"
        file.write_text(repr(Scenario(1, 4, (At(1.0, Split(((0, 1), (2, 3)))),))))
        code, out, _ = run("run", str(file), "--trace", str(tmp_path / "trace"))
        assert code == 0
        assert "sha256" in out
        assert (tmp_path / "trace").read_text().count("\n") > 100

    def test_explore_counts_what_it_played(self) -> None:
        code, out, _ = run("explore", "--seeds", "3..6", "--jobs", "2")
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
        code, _, err = run(*arguments)
        assert code == 2
        assert len(err.splitlines()) == 1


class TestCrowds:
    def test_a_crowd_is_played_printed_and_reported_again(self, tmp_path: Path) -> None:
        out = tmp_path / "report"
        options = ("--nodes", "5", "--megabytes", "2", "--liars", "0.2", "--report", str(out))
        code, text, err = run("crowd", *options, "--trace", str(tmp_path / "trace"))
        assert (code, err) == (0, "")
        assert "Fluid bound" in text
        assert (tmp_path / "trace").read_text().count("\n") > 50
        (out / "index.html").unlink()
        code, text, _ = run("report", str(out))
        assert (code, text.strip()) == (0, str(out / "index.html"))
        assert (out / "index.html").exists()

    def test_a_crowd_that_explore_prints_is_played(self, tmp_path: Path) -> None:
        file = tmp_path / "crowd.py"
        file.write_text(repr(Crowd(1, 3, image_bytes=MB, operations=(At(0.2, Flip(1)),))))
        for scenario in (str(file), file.read_text()):
            code, text, _ = run("crowd", scenario)
            assert code == 0
            assert "1 liar" in text

    def test_explore_plays_crowds(self) -> None:
        code, text, _ = run("explore", "--crowds", "--seeds", "1..6", "--jobs", "2")
        assert code == 0
        assert text.startswith("6 scenarios, no violation")

    @pytest.mark.parametrize(
        "arguments", [("nothing",), ("--nodes", "0"), ("--late", "2"), ("Crowd(1)",)]
    )
    def test_wrong_usage_is_one_line(self, arguments: tuple[str, ...]) -> None:
        code, _, err = run("crowd", *arguments)
        assert code == 2
        assert len(err.splitlines()) == 1
