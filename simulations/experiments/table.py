"""Options, trials, rows and tables: what all experiments have in common.

An experiment is a function from options to rows. A row is a flat mapping of column to value, the
same columns in every row of one experiment, so that it prints as a table and goes into a CSV file.
"""

import csv
import gc
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

Row = dict[str, object]
Progress = Callable[[int, int], None]
"""Called with the number of trials that are done, and the number of all."""
NICENESS: Final = 10  # of the processes that trials run in: they run long in the background

Trial = TypeVar("Trial")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of experiments; each ignores those that it has no use for.

    Attributes:
      seed: decides every random choice.
      nodes: sizes of cluster; empty is the experiment's own.
      trials: of each case; 0 is as many as its figures need.
      jobs: processes on this machine.
      whole: run all points of a large grid instead of some.
    """

    seed: int = 1
    nodes: tuple[int, ...] = ()
    trials: int = 0
    jobs: int = 1
    whole: bool = False

    def sizes(self, *usual: int) -> tuple[int, ...]:
        """Return the sizes asked for, or the usual ones."""
        return self.nodes or usual

    def trials_or(self, usual: int) -> int:
        """Return the number of trials asked for, or the usual one."""
        return self.trials or usual


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
      name: to run it by.
      help: one line that says what it shows.
      run: returns its rows.
    """

    name: str
    help: str
    run: Callable[[Options, Progress], list[Row]]


def silent(done: int, of: int) -> None:
    """Show no progress."""


def run_trials(
    action: Callable[[Trial], Result], trials: Sequence[Trial], jobs: int, progress: Progress
) -> list[Result]:
    """Return ``action`` of each of ``trials``, in their order, from ``jobs`` processes."""
    results: list[Result] = []
    progress(0, len(trials))
    if jobs <= 1:
        for trial in trials:
            results.append(_tidily(action, trial))
            progress(len(results), len(trials))
        return results
    with ProcessPoolExecutor(jobs, initializer=os.nice, initargs=(NICENESS,)) as pool:
        for result in pool.map(partial(_tidily, action), trials):
            results.append(result)
            progress(len(results), len(trials))
    return results


def _tidily(action: Callable[[Trial], Result], trial: Trial) -> Result:
    """Run a trial and collect its world: the parts of a world refer to each other in cycles, and
    the collector runs rarely (``simulations.running.collector``)."""
    result = action(trial)
    gc.collect()
    return result


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that a ``share`` of them do not exceed; NaN if there are none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1 if share else 0)]


def median(values: Iterable[float]) -> float:
    """Return the middle value; NaN if there is none."""
    return percentile(values, 0.5)


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN if there is no value."""
    return sum(values) / len(values) if values else math.nan


def table(rows: Sequence[Row]) -> str:
    """Return rows in aligned columns, for people."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [columns] + [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    number = [all(isinstance(row.get(c), int | float) for row in rows) for c in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, number, strict=True)
        ).rstrip()
        for line in lines
    )


def comma_separated(rows: Sequence[Row]) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    columns: dict[str, Any] = {column: None for row in rows for column in row}
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if value else "0"
    return str(value)
