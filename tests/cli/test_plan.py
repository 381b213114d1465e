"""``beiran plan``: its output, its warnings, and its agreement with a simulation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beiran_cli.plan import FITS, forecast
from beiran_cli.plan_terms import TERMS, Fleet, value
from simulations.sizing.fit import FIGURES, POINTS, Point, fit, measure, read_points, write_points

BEIRAN = Path(sys.executable).with_name("beiran")
TOLERANCE = 0.35
"""Of a fleet that was not among those that were fitted, one seed."""


def plan(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BEIRAN), "plan", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_it_prints_what_a_fleet_will_cost() -> None:
    done = plan("--nodes", "200", "--images", "30", "--events-per-hour", "600")
    assert done.returncode == 0, done.stderr
    for word in ("bytes a second", "Memory", "Database", "known to all", "silent", "joins"):
        assert word in done.stdout
    assert "Beyond" not in done.stdout


def test_it_warns_beyond_what_was_simulated() -> None:
    done = plan("--nodes", "50000", "--images", "30")
    assert "50000 nodes; the simulations had 10 to 1000" in done.stdout


def test_it_prints_the_same_as_json() -> None:
    answer = json.loads(plan("--nodes", "50", "--images", "9", "--output", "json").stdout)
    assert answer["fleet"]["different"] == 90
    assert answer["beyond"] == []
    assert answer["bytes_per_s"] == answer["idle_bytes_per_s"]
    assert 0 < answer["event_s"] < answer["silence_median_s"] <= answer["silence_worst_s"]


@pytest.mark.parametrize(
    "words",
    [
        ("--nodes", "0", "--images", "1"),
        ("--nodes", "1", "--images", "-1"),
        ("--nodes", "1", "--images", "1", "--events-per-hour", "-1"),
        ("--nodes", "1", "--images", "1", "--events-per-hour", "nan"),
        ("--nodes", "1"),
    ],
)
def test_fleets_that_cannot_be_are_wrong_usage(words: tuple[str, ...]) -> None:
    done = plan(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_no_figure_is_negative_however_small_the_fleet() -> None:
    fits = json.loads(FITS.read_text())
    for nodes in (1, 2, 3):
        answer = forecast(fits, Fleet(nodes, 0, 0, 0), 0.0)
        assert all(number >= 0 for number in answer.values() if isinstance(number, float))


def test_the_fits_are_those_of_the_points_that_come_with_them() -> None:
    kept = json.loads(FITS.read_text())
    again = json.loads(json.dumps(fit(read_points(POINTS))))
    assert kept["simulated"] == again["simulated"]
    for name in FIGURES:  # the table of points has rounded numbers
        coefficients = again["figures"][name]["coefficients"]
        assert kept["figures"][name]["coefficients"] == pytest.approx(coefficients, rel=1e-3)


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = read_points(POINTS)
    write_points(tmp_path / "points.csv", rows)
    assert (tmp_path / "points.csv").read_bytes() == POINTS.read_bytes()
    assert {term for figure in FIGURES.values() for term in figure.terms} <= TERMS.keys()


def test_a_fleet_that_was_not_fitted_costs_what_was_foretold() -> None:
    fits = json.loads(FITS.read_text())
    fleet = Fleet(60, 8, 60, 9)
    measured = measure(Point(fleet, seed=11))
    for name in FIGURES:
        foretold = value(fleet, fits["figures"][name]["coefficients"])
        assert foretold == pytest.approx(measured[name], rel=TOLERANCE), name
