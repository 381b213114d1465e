"""A grid of runs from a TOML file, and a row of figures for each.

    scenario = "crash"

    [grid]
    nodes = [10, 50, 100]
    loss = [0.0, 0.1]
    seed = "1..20"

Every combination is one run. A run that has a row in the CSV is not run again, so a sweep that was
stopped continues. ``grid`` may hold ``nodes``, ``seed``, ``loss`` and any parameter of
``GossipConfig``; ``"A..B"`` stands for all whole numbers from A to B.
"""

import csv
import itertools
import time
import tomllib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from beiran.errors import SettingsError
from beiran.gossip.config import GossipConfig
from simulations.gossip.catalogue import MAKERS
from simulations.gossip.scenario import play
from simulations.report.gossip.row import Figure, run_row
from simulations.running.collector import rare_collections
from simulations.running.pool import Mapper

RUNS_MAX: Final = 100_000
_OURS: Final = ("nodes", "seed", "loss")
_PARAMETERS: Final = frozenset(GossipConfig.__struct_fields__)

Row = Mapping[str, Figure]
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Run:
    """One point of the grid. ``parameters``: of ``GossipConfig``, by name."""

    scenario: str
    nodes: int
    seed: int
    loss: float
    parameters: tuple[tuple[str, object], ...] = ()


def read_sweep(path: Path) -> list[Run]:
    """Return all runs of a file, in the order of its grid. Raises: SettingsError, one line."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    name, grid = table.get("scenario"), table.get("grid", {})
    if name not in MAKERS:
        raise SettingsError(f"{path}: scenario must be one of {', '.join(MAKERS)}")
    unknown = [key for key in grid if key not in _OURS and key not in _PARAMETERS]
    if unknown:
        raise SettingsError(f"{path}: {unknown[0]} cannot be varied by a grid")
    values: dict[str, list[object]] = {"nodes": [10], "seed": [1], "loss": [0.0]}
    for key, value in grid.items():
        values[key] = _values(path, key, value)
    points = list(itertools.islice(itertools.product(*values.values()), RUNS_MAX + 1))
    if len(points) > RUNS_MAX:
        raise SettingsError(f"{path}: more than {RUNS_MAX} runs")
    return [_run(path, name, dict(zip(values, point, strict=True))) for point in points]


def run_one(run: Run) -> dict[str, Figure]:
    """Play one point; any process may call this."""
    config = GossipConfig(**dict(run.parameters))  # type: ignore[arg-type]
    began = time.process_time()
    with rare_collections():
        outcome = play(MAKERS[run.scenario](run.nodes, run.seed, run.loss), config=config)
    row = run_row(outcome, cpu_s=time.process_time() - began)
    varied = {name: str(value) for name, value in run.parameters}
    return {"scenario": run.scenario, **varied, **row}


def run_sweep(runs: Sequence[Run], mapper: Mapper, path: Path) -> Generator[Row, None, None]:
    """Play all runs, and write and yield a row for each as it is ready.

    Runs that have a row in the file are not played again; their rows come first, as text.
    Raises: SettingsError if the file is of another sweep.
    """
    done = _done_rows(path, runs)
    yield from done.values()
    left = [run for run in runs if _key(run) not in done]
    _rewrite(path, list(done.values()))
    with path.open("a", newline="") as file:
        for row in mapper(run_one, left):
            writer = csv.DictWriter(file, list(row))
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            yield row


def _done_rows(path: Path, runs: Sequence[Run]) -> dict[Key, Row]:
    """Return the rows of an earlier start; one that was cut short while it was written is not."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    names = ("scenario", *_OURS, *(name for name, _ in runs[0].parameters))
    wanted = {_key(run) for run in runs}
    done: dict[Key, Row] = {}
    for row in rows:
        key = tuple((name, row.get(name, "")) for name in names)
        if key not in wanted or any(name in row for name in _PARAMETERS.difference(names)):
            raise SettingsError(f"{path} is of another sweep; remove it, or give another --out")
        done[key] = dict(row)
    return done


def _key(run: Run) -> Key:
    values = (run.scenario, run.nodes, run.seed, run.loss)
    ours = zip(("scenario", *_OURS), map(str, values), strict=True)
    return (*ours, *((name, str(value)) for name, value in run.parameters))


def _rewrite(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file by these rows, atomically."""
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    part.replace(path)


def numbers(text: str) -> range:
    """``"3..7"``: 3 to 7, both included; ``"3"`` is 3. Raises: ValueError for anything else."""
    first, separator, last = text.partition("..")
    return range(int(first), int(last if separator else first) + 1)


def _values(path: Path, key: str, value: object) -> list[object]:
    if isinstance(value, str):
        try:
            return list(numbers(value))
        except ValueError:
            raise SettingsError(f"{path}: {key} = {value!r} is not A..B") from None
    return list(value) if isinstance(value, list) else [value]


def _run(path: Path, name: str, point: dict[str, object]) -> Run:
    parameters = tuple((key, point[key]) for key in point if key in _PARAMETERS)
    try:
        msgspec.convert(dict(parameters), GossipConfig)  # checks their types
        nodes = msgspec.convert(point["nodes"], int)
        seed = msgspec.convert(point["seed"], int)
        loss = msgspec.convert(point["loss"], float)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {error}") from None
    return Run(name, nodes, seed, loss, parameters)
