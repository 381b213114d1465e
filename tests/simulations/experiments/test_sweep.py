"""Sweeps: grids of runs, in processes and on a Dask cluster, which go on where they stopped."""

import contextlib
import csv
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beiran.errors import SettingsError
from simulations.experiments.sweep import Run, read_sweep, run_sweep
from simulations.running.pool import in_processes

ROOT = Path(__file__).parents[3]
GRID = """
scenario = "image"

[grid]
nodes = [2, 3]
seed = "1..2"
loss = [0.0, 0.1]
"""
TIMING = ("cpu_s", "steps_per_cpu_s", "memory_bytes")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


class Counting:
    """Plays here, and counts."""

    def __init__(self) -> None:
        self.played: list[Any] = []

    def __call__(self, work: Any, arguments: Iterable[Any]) -> Iterator[Any]:
        for argument in arguments:
            self.played.append(argument)
            yield work(argument)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in TIMING}
            for row in csv.DictReader(file)
        ]


def test_every_combination_has_a_row(grid: Path, tmp_path: Path) -> None:
    runs = read_sweep(grid)
    out = tmp_path / "out.csv"
    rows = list(run_sweep(runs, in_processes(1), out))
    assert len(rows) == len(runs) == 8
    written = _rows(out)
    assert {(row["nodes"], row["seed"], row["loss"]) for row in written} == {
        (nodes, seed, loss) for nodes in "23" for seed in "12" for loss in ("0.0", "0.1")
    }
    assert all(row["violation"] == "" for row in written)


def test_a_sweep_that_was_stopped_goes_on_where_it_was(grid: Path, tmp_path: Path) -> None:
    runs = read_sweep(grid)
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    list(run_sweep(runs, in_processes(1), whole))
    sweep = run_sweep(runs, in_processes(1), out)
    for _ in range(3):
        next(sweep)
    sweep.close()
    with out.open("a") as file:
        file.write("image,3,")  # the machine lost its power in the middle of a row
    counting = Counting()
    assert len(list(run_sweep(runs, counting, out))) == 8
    assert counting.played == runs[3:]
    assert _rows(out) == _rows(whole)
    assert not list(run_sweep(runs, (again := Counting()), out))[8:]
    assert again.played == []


def test_the_rows_of_another_sweep_are_not_taken_for_ours(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    list(run_sweep(read_sweep(grid)[:1], in_processes(1), out))
    before = out.read_bytes()
    for other in (
        Run("image", 9, 1, 0.0),
        Run("image", 2, 1, 0.0, (("fanout", 3),)),
    ):
        with pytest.raises(SettingsError, match="another sweep"):
            list(run_sweep([other], in_processes(1), out))
    assert out.read_bytes() == before


def test_a_grid_varies_the_protocols_parameters(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('scenario = "image"\n[grid]\nnodes = 2\nfanout = [1, 2]\n')
    rows = list(run_sweep(read_sweep(path), in_processes(1), tmp_path / "out.csv"))
    assert [row["fanout"] for row in rows] == ["1", "2"]


@pytest.mark.parametrize(
    "text",
    ["", 'scenario = "none"', 'scenario = "image"\n[grid]\nfun = 3', "scenario =", "[grid]"],
)
def test_a_file_that_is_no_sweep_is_reported_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_sweep(path)
    assert len(str(error.value).splitlines()) == 1


@contextlib.contextmanager
def _dask(folder: Path) -> Iterator[str]:
    """A scheduler and a worker, as an operator would run them."""
    pytest.importorskip("distributed")
    address_file = folder / "scheduler.json"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s"}
    common = ["--scheduler-file", str(address_file), "--no-dashboard"]
    scheduler = ["--host", "127.0.0.1", "--port", "0"]
    worker = ["--nworkers", "1", "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"]
    with contextlib.ExitStack() as stack:
        for words in (["scheduler", *common, *scheduler], ["worker", *common, *worker]):
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                env=environ,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield str(address_file)


def test_a_sweep_on_a_dask_cluster_has_the_same_rows(grid: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    list(run_sweep(read_sweep(grid), in_processes(1), here))
    with _dask(tmp_path) as address_file:
        address = _address(Path(address_file))
        done = _sweep(grid, there, address)
    assert done.returncode == 0, done.stderr
    assert sorted(map(str, _rows(there))) == sorted(map(str, _rows(here)))


def _sweep(grid: Path, out: Path, scheduler: str) -> subprocess.CompletedProcess[str]:
    words = ["sweep", str(grid), "--out", str(out), "--scheduler", scheduler]
    return subprocess.run(
        [sys.executable, "-m", "simulations", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def _address(path: Path) -> str:
    """Where the scheduler is, once it says so."""
    from distributed import Client

    with Client(  # type: ignore[no-untyped-call]
        scheduler_file=str(path), timeout=60, set_as_default=False
    ) as client:
        client.wait_for_workers(1, timeout=60)
        address: str = client.scheduler.address
    return address


def test_a_missing_scheduler_is_reported_in_one_line(grid: Path, tmp_path: Path) -> None:
    done = _sweep(grid, tmp_path / "out.csv", "tcp://127.0.0.1:1")
    assert done.returncode == 2
    assert "no Dask scheduler at tcp://127.0.0.1:1" in done.stderr.splitlines()[-1]
