"""``python -m simulations``: its commands, from ``list`` to ``fidelity``."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter

from beiran.errors import BeiranError, SettingsError
from simulations.commands.play import DONE, VIOLATED, crowd, run
from simulations.experiments.catalogue import EXPERIMENTS
from simulations.experiments.sweep import numbers, read_sweep, run_sweep
from simulations.experiments.table import Options, comma_separated, table
from simulations.explore.clusters import CLUSTERS
from simulations.explore.crowds import CROWDS
from simulations.explore.hunt import Found, Hunt
from simulations.fidelity.compare import compare, comparison_table
from simulations.fidelity.measured import LAB_RUN, Counts, LabRun
from simulations.gossip.catalogue import MAKERS
from simulations.report.gossip.page import write_report
from simulations.report.gossip.record import Record
from simulations.report.swarm.page import is_crowd, write_crowd_report
from simulations.report.swarm.record import CrowdRecord
from simulations.running.collector import rare_collections
from simulations.running.pool import in_processes, on_dask
from simulations.running.progress import bar
from simulations.sizing.fit import FITS, GRID, POINTS, fit, measure_missing, write_fits

USAGE: Final = 2
INTERRUPTED: Final = 130

Jobs = Annotated[int, Parameter(name=["--jobs", "-j"])]

app = App(
    name="python -m simulations",
    help="The agent's own cores on virtual time: whole clusters, and crowds that pull.",
    help_epilogue="Exit codes: 0 all invariants and targets held, 1 one did not, 2 wrong usage.",
    suppress_keyboard_interrupt=False,
)


@app.command(name="list")
def list_scenarios() -> None:
    """List the scenarios that have a name."""
    width = max(map(len, MAKERS))
    for name, maker in MAKERS.items():
        print(f"{name:<{width}}  {(maker.__doc__ or '').splitlines()[0]}")


app.command(run)


@app.command(help_epilogue="\n".join(f"- {one.name}: {one.help}" for one in EXPERIMENTS.values()))
def experiment(
    name: str = "",
    /,
    *,
    seed: int = 1,
    nodes: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    trials: int = 0,
    jobs: Jobs = 1,
    whole: Annotated[bool, Parameter(negative="")] = False,
    csv: Path | None = None,
) -> int:
    """Run an experiment of the papers or of this project, and print its table.

    Parameters
    ----------
    name
        One of those below; without it they are listed.
    seed
        Decides every random choice.
    nodes
        Sizes of cluster instead of the usual ones; may be repeated.
    trials
        Trials of each case; 0 is as many as its figures need.
    jobs
        Processes.
    whole
        Run all points of a large grid instead of some: many hours.
    csv
        Write the rows into this CSV file too.
    """
    if not name:
        for known in EXPERIMENTS.values():
            print(f"{known.name:<20}  {known.help}")
        return DONE
    if name not in EXPERIMENTS:
        print(f"there is no experiment {name!r}: {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return USAGE
    options = Options(seed=seed, nodes=nodes, trials=trials, jobs=jobs, whole=whole)
    with bar(name, 1.0) as shown, rare_collections():
        rows = EXPERIMENTS[name].run(options, lambda done, of: shown.to(done / max(of, 1)))
    print(table(rows))
    if csv is not None:
        csv.write_text(comma_separated(rows))
    return VIOLATED if any(row.get("met") == "NO" for row in rows) else DONE


@app.command(name="report")
def make_report(folder: Path) -> None:
    """Write the page, plots and tables of a run again, from the record that run --report left.

    Parameters
    ----------
    folder
        Holds the record, and receives the report.
    """
    if is_crowd(folder):
        print(write_crowd_report(CrowdRecord.read(folder), folder))
    else:
        print(write_report(Record.read(folder), folder))


@app.command
def explore(
    *,
    seeds: str,
    crowds: Annotated[bool, Parameter(negative="")] = False,
    jobs: Jobs = 1,
    keep_going: bool = False,
) -> int:
    """Play random scenarios until one violates an invariant, and shrink that one.

    Parameters
    ----------
    seeds
        A..B: each is a scenario.
    crowds
        Play crowds that pull an image instead of gossip clusters.
    jobs
        Processes.
    keep_going
        Play all seeds, whatever is found.
    """
    try:
        chosen = numbers(seeds)
    except ValueError:
        raise SettingsError(f"--seeds {seeds}: it must be A..B, as 1..1000") from None
    return _hunt(CROWDS if crowds else CLUSTERS, chosen, jobs, keep_going)


app.command(crowd)


@app.command
def sweep(
    file: Path,
    *,
    out: Path = Path("sweep.csv"),
    jobs: Jobs = 1,
    scheduler: str | None = None,
) -> int:
    """Run a grid of scenarios, a row of figures for each; a stopped sweep continues.

    Parameters
    ----------
    file
        TOML: scenario = "NAME", and in [grid] the values of nodes, loss, seed and parameters.
    out
        The CSV to write. Runs that have a row there are not run again.
    jobs
        Processes.
    scheduler
        Run it on the Dask cluster with the scheduler at this address (tcp://HOST:PORT).
    """
    runs = read_sweep(file)
    mapper = in_processes(jobs) if scheduler is None else on_dask(scheduler)
    violations = 0
    with bar("sweep", len(runs)) as progress:
        for done, row in enumerate(run_sweep(runs, mapper, out), start=1):
            violations += bool(row["violation"])
            progress.to(done)
    print(f"{len(runs)} runs, {violations} with a violation: {out}")
    return VIOLATED if violations else DONE


@app.command(name="plan-fit")
def plan_fit(*, points: Path = POINTS, out: Path = FITS, jobs: Jobs = 1) -> None:
    """Simulate the fleets that `beiran plan` rests on, and fit its formulas to them.

    Parameters
    ----------
    points
        The CSV of simulated fleets; only those that it lacks are simulated.
    out
        The JSON that the CLI reads.
    jobs
        Processes.
    """
    with bar("plan-fit", len(GRID)) as progress:
        rows = measure_missing(points, in_processes(jobs), progress.to)
    write_fits(out, fit(rows))
    print(f"{len(rows)} points in {points}, fits in {out}")


@app.command
def fidelity(
    *,
    lab: bool = False,
    run: Path = LAB_RUN,
    hosts: str = "5,30",
    seed: int = 1,
) -> int:
    """Repeat a run of the lab in the simulator, and compare the two.

    Parameters
    ----------
    lab
        Run the lab first (root; about twenty minutes on an idle machine), into the file of --run.
    run
        The lab's run.
    hosts
        Sizes for --lab.
    seed
        Decides every random choice of the simulator.
    """
    if lab:
        from simulations.fidelity.lab import run_lab

        try:
            sizes = [int(size) for size in hosts.split(",")]
        except ValueError:
            raise SettingsError(f"--hosts {hosts}: it must be numbers, as 5,30") from None
        run_lab(sizes, Counts(), lambda line: print(line, flush=True)).write(run)
    pairs = compare(LabRun.read(run), seed=seed)
    print(comparison_table(pairs))
    return DONE if all(pair.agrees for pair in pairs) else VIOLATED


def main() -> int:
    """Run the command line. Returns its exit code."""
    try:
        code = app(
            sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value"
        )
        return code if isinstance(code, int) else DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (CycloptsError, BeiranError) as error:
        print(f"simulations: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE


def _hunt(hunt: Hunt[Any, Any], seeds: Sequence[int], jobs: int, keep_going: bool) -> int:
    found: list[Found[Any]] = []
    began, cpu_began = time.monotonic(), time.process_time()
    with bar("explore", len(seeds)) as progress:
        for done, result in enumerate(in_processes(jobs)(hunt.explore_one, seeds), start=1):
            progress.to(done, f"{len(found)} found")
            if result is None:
                continue
            found.append(result)
            print(f"seed {result.seed}: {result.violation}", flush=True)
            if not keep_going:
                break
    if not found:
        cpu_s = time.process_time() - cpu_began
        took_s = time.monotonic() - began
        print(f"{len(seeds)} scenarios, no violation ({took_s:.0f} s, {cpu_s:.0f} s CPU here)")
        return DONE
    first = found[0]
    with bar(f"shrinking seed {first.seed}", 1.0) as progress:
        small = hunt.shrink(
            hunt.play(first.scenario), lambda tries: progress.to(0.0, f"{tries} scenarios tried")
        )
    print(f"\n{small.violation}\n{small.scenario!r}")
    print(f"\nreplay: {hunt.replay} {shlex.quote(' '.join(repr(small.scenario).split()))}")
    return VIOLATED
