"""``python -m simulations``: its commands, from ``list`` to ``fidelity``."""

import cProfile
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, CycloptsError, Parameter

from beiran.errors import BeiranError, SettingsError
from simulations.experiments import EXPERIMENTS, Options, comma_separated
from simulations.experiments import table as experiment_table
from simulations.experiments.sweep import numbers, read_sweep, run_sweep
from simulations.explore.clusters import CLUSTERS
from simulations.explore.crowds import CROWDS
from simulations.explore.hunt import Found, Hunt, Sought
from simulations.fidelity.compare import compare, table
from simulations.fidelity.measured import LAB_RUN, Counts, LabRun
from simulations.gossip.catalogue import MAKERS
from simulations.gossip.scenario import Outcome, Scenario, length_s, play, read_scenario
from simulations.gossip.world import World
from simulations.kernel.trace import Trace
from simulations.report.gossip.chronicle import Chronicle
from simulations.report.gossip.page import write_report
from simulations.report.gossip.record import Record
from simulations.report.gossip.row import figure_lines, figures, traffic_lines
from simulations.report.swarm.page import is_crowd, write_crowd_report
from simulations.report.swarm.record import CrowdRecord
from simulations.running.collector import rare_collections
from simulations.running.pool import in_processes, on_dask
from simulations.running.profile import profile_text
from simulations.running.progress import bar
from simulations.sizing.fit import FITS, GRID, POINTS, fit, measure_missing, write_fits
from simulations.swarm_command import crowd

DONE: Final = 0
VIOLATED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

app = App(
    name="python -m simulations",
    help="Whole clusters of the agent's own core on virtual time.",
    help_epilogue="Exit codes: 0 all invariants and targets held, 1 one did not, 2 wrong usage.",
    suppress_keyboard_interrupt=False,
)


@app.command(name="list")
def list_scenarios() -> None:
    """List the scenarios that have a name."""
    width = max(map(len, MAKERS))
    for name, maker in MAKERS.items():
        print(f"{name:<{width}}  {(maker.__doc__ or '').splitlines()[0]}")


@app.command
def run(
    scenario: str,
    *,
    nodes: int = 20,
    seed: int = 1,
    loss: float = 0.0,
    carried: bool = False,
    trace: Path | None = None,
    report: Path | None = None,
    profile: bool = False,
) -> int:
    """Run one scenario, and tell what came of it.

    Parameters
    ----------
    scenario
        Its name (see list), a file that holds one as explore prints it, or that text itself.
    nodes
        Hosts.
    seed
        Decides everything that is left to chance.
    loss
        Share of datagrams that are lost, 0 to 1.
    carried
        Without the codec: sizes are estimates then.
    trace
        Write each thing that happens into this file, a line each.
    report
        Write a page, plots and tables of the run into this folder (needs beiran[simulations]).
    profile
        Tell where the time went.
    """
    chosen = _scenario(scenario, nodes, seed, loss)
    tracer = None
    chronicles: list[Chronicle] = []
    with ExitStack() as stack:
        if trace is not None:
            tracer = Trace(stack.enter_context(trace.open("w")))
        progress = stack.enter_context(bar(scenario[:20].split("(")[0], length_s(chosen)))

        def prepare(world: World) -> None:
            if tracer is not None:
                world.trace = tracer.line
            if report is not None:
                chronicles.append(Chronicle(world))

        stack.enter_context(rare_collections())
        profiler = cProfile.Profile() if profile else None
        began = time.process_time()
        if profiler is not None:
            profiler.enable()
        outcome = play(chosen, prepare=prepare, progress=progress.to, carried=carried)
        if profiler is not None:
            profiler.disable()
        cpu_s = time.process_time() - began
    for line in [*figure_lines(figures(outcome, cpu_s=cpu_s)), "", *traffic_lines(outcome)]:
        print(line)
    if tracer is not None:
        print(f"\ntrace {tracer.lines} lines, sha256 {tracer.digest}")
    if profiler is not None:
        print("\n" + profile_text(profiler))
    if report is not None:
        print(f"\n{write_report(_record(chronicles[0], scenario, outcome), report)}")
    return _tell(outcome)


@app.command(help_epilogue="\n".join(f"- {one.name}: {one.help}" for one in EXPERIMENTS.values()))
def experiment(
    name: str = "",
    /,
    *,
    seed: int = 1,
    nodes: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    trials: int = 0,
    jobs: Annotated[int, Parameter(name=["--jobs", "-j"])] = 1,
    whole: Annotated[bool, Parameter(negative="")] = False,
    csv: Path | None = None,
) -> int:
    """Run an experiment and print its table: the papers', and this project's figures.

    Parameters
    ----------
    name
        One of those below; without it they are listed.
    seed
        Decides everything that is left to chance.
    nodes
        Sizes of cluster instead of the usual ones; may be repeated.
    trials
        Of each case; 0 is as many as its figures need.
    jobs
        Processes.
    whole
        All of a large grid, where otherwise some points are run: many hours.
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
    print(experiment_table(rows))
    if csv is not None:
        csv.write_text(comma_separated(rows))
    return VIOLATED if any(row.get("met") == "NO" for row in rows) else DONE


@app.command(name="report")
def make_report(folder: Path) -> None:
    """Make the page, plots and tables of a run again, from the record that run --report left.

    Parameters
    ----------
    folder
        Where it is, and where they go.
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
    jobs: Annotated[int, Parameter(name=["--jobs", "-j"])] = 1,
    keep_going: bool = False,
) -> int:
    """Play random scenarios until one violates an invariant; make that one small.

    Parameters
    ----------
    seeds
        A..B: each is a scenario.
    crowds
        Crowds that pull an image, instead of clusters that gossip.
    jobs
        Processes.
    keep_going
        Do not stop at the first.
    """
    try:
        chosen = numbers(seeds)
    except ValueError:
        raise SettingsError(f"--seeds {seeds}: it must be A..B, as 1..1000") from None
    return (
        _hunt(CROWDS, chosen, jobs, keep_going)
        if crowds
        else (_hunt(CLUSTERS, chosen, jobs, keep_going))
    )


app.command(crowd)


@app.command
def sweep(
    file: Path,
    *,
    out: Path = Path("sweep.csv"),
    jobs: Annotated[int, Parameter(name=["--jobs", "-j"])] = 1,
    scheduler: str | None = None,
) -> int:
    """Run a grid of scenarios, a row of figures for each; go on where it was stopped.

    Parameters
    ----------
    file
        TOML: scenario = "NAME", and in [grid] the values of nodes, loss, seed and parameters.
    out
        The CSV to write. What it has already is not run again.
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
def plan_fit(
    *,
    points: Path = POINTS,
    out: Path = FITS,
    jobs: Annotated[int, Parameter(name=["--jobs", "-j"])] = 1,
) -> None:
    """Simulate the fleets that `beiran plan` rests on, and fit its formulas to them.

    Parameters
    ----------
    points
        The CSV of points; only those that it lacks are simulated.
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
    """Repeat a run of the lab in the simulator, and say how well the two agree.

    Parameters
    ----------
    lab
        Run the lab first (root; about twenty minutes on an idle machine), into the file of --run.
    run
        The lab's run.
    hosts
        Sizes for --lab.
    seed
        Of the simulator's side.
    """
    if lab:
        from simulations.fidelity.lab import run_lab

        try:
            sizes = [int(size) for size in hosts.split(",")]
        except ValueError:
            raise SettingsError(f"--hosts {hosts}: it must be numbers, as 5,30") from None
        run_lab(sizes, Counts(), lambda line: print(line, flush=True)).write(run)
    pairs = compare(LabRun.read(run), seed=seed)
    print(table(pairs))
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


def _hunt(hunt: Hunt[Sought], seeds: Sequence[int], jobs: int, keep_going: bool) -> int:
    found: list[Found[Sought]] = []
    began, cpu_began = time.monotonic(), time.process_time()
    with bar("explore", len(seeds)) as progress:
        for done, result in enumerate(in_processes(jobs)(hunt.explore_one, seeds), start=1):
            progress.to(done, f"{len(found)} found")
            if result is None:
                continue
            found.append(result)
            print(f"seed {result.seed}: {result.text}", flush=True)
            if not keep_going:
                break
    if not found:
        cpu_s = time.process_time() - cpu_began
        took_s = time.monotonic() - began
        print(f"{len(seeds)} scenarios, no violation ({took_s:.0f} s, {cpu_s:.0f} s CPU here)")
        return DONE
    first = found[0]
    with bar(f"shrinking seed {first.seed}", 1.0) as progress:
        small, violation = hunt.shrink(
            first.scenario, lambda tries: progress.to(0.0, f"{tries} scenarios tried")
        )
    print(f"\n{violation}\n{small!r}")
    print(f"\nreplay: {hunt.replay} {shlex.quote(_one_line(small))}")
    return VIOLATED


def _scenario(text: str, nodes: int, seed: int, loss: float) -> Scenario:
    if text in MAKERS:
        if nodes < 1 or not 0.0 <= loss <= 1.0:
            raise SettingsError("--nodes must be at least 1, --loss between 0 and 1")
        return MAKERS[text](nodes, seed, loss)
    if text.lstrip().startswith("Scenario("):
        return read_scenario(text)
    try:
        return read_scenario(Path(text).read_text())
    except OSError:
        raise SettingsError(f"{text}: no such scenario, and no such file") from None


def _record(chronicle: Chronicle, name: str, outcome: Outcome) -> Record:
    scenario = outcome.scenario
    about = {"nodes": str(scenario.nodes), "seed": str(scenario.seed), "loss": f"{scenario.loss:g}"}
    if outcome.violation is not None:
        about["violated"] = str(outcome.violation)
    return chronicle.record(name if name in MAKERS else "Scenario", about)


def _tell(outcome: Outcome) -> int:
    if outcome.violation is None:
        return DONE
    print(f"\nVIOLATED: {outcome.violation}")
    return VIOLATED


def _one_line(scenario: object) -> str:
    return " ".join(repr(scenario).split())
