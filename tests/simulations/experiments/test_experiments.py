"""The experiments, small: they run, and their claims hold."""

import csv
import math
from pathlib import Path

import pytest

from simulations.commands.main import app
from simulations.experiments.catalogue import EXPERIMENTS
from simulations.experiments.configs import OURS, SERF
from simulations.experiments.dissemination import Spread, spread
from simulations.experiments.idle import Rest, rest
from simulations.experiments.joining import Cut, Joining, heal, join
from simulations.experiments.lifeguard import BLOCK_S, BLOCKED, FREE_S, Cell, grid, run_cell
from simulations.experiments.silence import Silence, deaths
from simulations.experiments.table import (
    Experiment,
    Options,
    comma_separated,
    mean,
    median,
    percentile,
    run_trials,
    silent,
    table,
)


def test_a_host_without_power_is_offline_sooner_than_serf_would_have_it() -> None:
    ours, serf = deaths([(Silence(config, 20, 3), 10) for config in (OURS, SERF)], 1, silent)
    assert median(d.everywhere_s for d in ours) < 0.6 * median(d.everywhere_s for d in serf)
    assert all(d.suspected_s <= d.down_s <= d.everywhere_s for d in [*ours, *serf])


def test_a_blocked_member_is_found_and_no_healthy_one_is_declared_down() -> None:
    found = run_cell(Cell("ours", 4, 12.0, 0.0, seed=5, members=32))
    assert (found.false_positives, found.at_healthy) == (0, 0)
    assert len(found.first_s) == len(found.everywhere_s) == 4


def test_swim_alone_declares_members_down_that_were_never_blocked() -> None:
    found = run_cell(Cell("SWIM", 8, 32.768, 0.0, seed=5, members=32))
    assert found.false_positives > 0


def test_blocked_members_are_freed_and_blocked_again() -> None:
    found = run_cell(Cell("ours", 2, 0.512, 0.256, seed=5, members=16, lasts_s=5.0))
    assert found.false_positives == 0
    assert found.first_s == []


def test_each_run_is_a_point_of_the_grid() -> None:
    whole = grid(whole=True)
    assert len(set(whole)) == len(BLOCKED) * len(BLOCK_S) * len(FREE_S) == 360
    assert set(grid(whole=False)) < set(whole)


def test_an_update_reaches_all_within_milliseconds_and_costs_little() -> None:
    found = spread(Spread(100, 0.0, 3, seed=2, images=3, known=True))
    assert found.first_hearings == [100, 100, 100]
    assert max(found.all_know_s) < 0.1
    assert found.bytes_per_event <= 400


def test_an_update_reaches_all_with_a_tenth_of_all_packets_lost() -> None:
    found = spread(Spread(100, 0.1, 3, seed=2))
    assert max(found.all_know_s) < 2.0


def test_a_cluster_at_rest_costs_two_packets_a_second_at_any_size() -> None:
    small, packets, by_kind = rest(Rest(10, 1))
    large, _, _ = rest(Rest(100, 1))
    assert abs(large / small - 1) < 0.15
    assert 1.9 < packets < 2.3
    assert by_kind["ping"] > 0


def test_a_new_node_learns_the_whole_cluster() -> None:
    found = join(Joining(50, 1))
    assert 0 < found.picture_bytes <= found.described_bytes
    assert found.known_s <= found.described_s


def test_two_halves_converge_again() -> None:
    healed = heal(Cut(20, 1, cut_s=30.0))
    assert healed.offline == 10
    assert healed.one_picture_s < 20


def test_suspicions_do_not_outlive_a_short_cut_by_long() -> None:
    healed = heal(Cut(100, 3, cut_s=20.0, share=0.9))
    longest_s = OURS.suspicion_min_s(100) * OURS.suspicion_beta
    assert healed.one_picture_s <= healed.no_suspicion_s
    assert healed.no_suspicion_s < 1.5 * longest_s  # the time they were deaf does not count


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("silence", Options(nodes=(8,), trials=2)),
        ("swim", Options(nodes=(8,), trials=2)),
        ("idle", Options(nodes=(5, 100))),
        ("dissemination", Options(nodes=(30,), trials=1)),
        ("event-bytes", Options(nodes=(30,), trials=1)),
        ("joining", Options(nodes=(30,))),
        ("healing", Options(nodes=(20,))),
    ],
)
def test_an_experiment_gives_rows_with_the_same_columns(name: str, options: Options) -> None:
    seen: list[tuple[int, int]] = []
    rows = EXPERIMENTS[name].run(options, lambda done, of: seen.append((done, of)))
    assert len({tuple(row) for row in rows}) == 1
    assert seen[-1][0] == seen[-1][1] > 0
    assert len(list(csv.DictReader(comma_separated(rows).splitlines()))) == len(rows)
    assert len(table(rows).splitlines()) == len(rows) + 1


def test_trials_give_the_same_in_several_processes() -> None:
    assert run_trials(math.sqrt, [4, 9, 16], 2, silent) == [2, 3, 4]


def test_figures_of_few_values() -> None:
    assert math.isnan(median([]))
    assert math.isnan(mean([]))
    assert percentile([3, 1, 2], 0.99) == 3
    assert table([]) == ""


def test_the_command_lists_the_experiments_and_refuses_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app(["experiment"], result_action="return_value") == 0
    listed = capsys.readouterr().out
    app(["experiment", "--help"], result_action="return_value")
    helped = capsys.readouterr().out
    assert all(name in listed and name in helped for name in EXPERIMENTS)
    assert app(["experiment", "nonsense"], result_action="return_value") == 2


def test_the_command_prints_a_table_and_writes_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "idle.csv"
    words = ["experiment", "idle", "--nodes", "5", "--nodes", "8", "--csv", str(file)]
    assert app(words, result_action="return_value") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert [row["nodes"] for row in csv.DictReader(file.read_text().splitlines())] == ["5", "8"]


def test_a_target_that_is_missed_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Experiment("late", "too late", lambda options, progress: [{"s": 9.0, "met": "NO"}])
    monkeypatch.setitem(EXPERIMENTS, "late", late)
    assert app(["experiment", "late"], result_action="return_value") == 1
