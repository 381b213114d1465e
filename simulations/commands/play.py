"""The commands that play one scenario: ``run`` (a gossip cluster) and ``crowd`` (a swarm)."""

import cProfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from beiran.errors import SettingsError
from simulations.gossip.catalogue import MAKERS
from simulations.gossip.scenario import Outcome, Scenario, read_scenario
from simulations.gossip.scenario import play as play_scenario
from simulations.gossip.world import World
from simulations.kernel.checkers import Violation
from simulations.kernel.trace import Trace
from simulations.report.gossip.chronicle import Chronicle
from simulations.report.gossip.page import write_report
from simulations.report.gossip.record import Record
from simulations.report.gossip.row import figure_lines, run_row, traffic_lines
from simulations.report.swarm.page import write_crowd_report
from simulations.report.swarm.record import CrowdChronicle
from simulations.report.swarm.summary import crowd_figures
from simulations.running.collector import rare_collections
from simulations.running.profile import profile_text
from simulations.running.progress import Bar, bar
from simulations.swarm.flash import Shares, flash_crowd
from simulations.swarm.image_pull import ImagePull
from simulations.swarm.scenario import Crowd, read_crowd
from simulations.swarm.scenario import play as play_crowd
from simulations.swarm.world import MBIT
from simulations.swarm.world import World as CrowdWorld

DONE: Final = 0
VIOLATED: Final = 1
MEGABYTE: Final = 1_000_000

T = TypeVar("T")


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
    """Run one scenario and print its figures.

    Parameters
    ----------
    scenario
        Its name (see list), a file that holds one as explore prints it, or that text itself.
    nodes
        Number of hosts.
    seed
        Decides every random choice.
    loss
        Share of datagrams that are lost, 0 to 1.
    carried
        Hand messages over without the codec; sizes are estimates then.
    trace
        Write a line for each thing that happens into this file.
    report
        Write a page, plots and tables of the run into this folder (needs beiran[simulations]).
    profile
        Print the functions that took the most processor time.
    """
    chosen = _read(
        scenario,
        kind="Scenario",
        read=read_scenario,
        made=lambda: _make(scenario, nodes, seed, loss),
    )
    chronicles: list[Chronicle] = []
    with _played(scenario[:20].split("(")[0], chosen.length_s, trace, profile) as played:

        def prepare(world: World) -> None:
            played.trace_into(world)
            if report is not None:
                chronicles.append(Chronicle(world))

        outcome = play_scenario(
            chosen, prepare=prepare, progress=played.progress.to, carried=carried
        )
    for line in [*figure_lines(run_row(outcome, cpu_s=played.cpu_s)), "", *traffic_lines(outcome)]:
        print(line)
    page = None
    if report is not None:
        page = write_report(_record(chronicles[0], scenario, outcome), report)
    return played.finish(page, outcome.violation)


def crowd(
    scenario: str = "",
    /,
    *,
    nodes: int = 1000,
    megabytes: float = 20.0,
    layers: int = Crowd.layers,
    mbit: float = 50.0,
    origin_mbit: float = 50.0,
    late: float = 0.0,
    slow: float = 0.0,
    liars: float = 0.0,
    forgers: float = 0.0,
    leavers: float = 0.0,
    killed: float = 0.0,
    loss: float = 0.0,
    seed: int = 1,
    trace: Path | None = None,
    report: Path | None = None,
    profile: bool = False,
) -> int:
    """Let a crowd pull one image, and print how near to the bound it comes.

    Parameters
    ----------
    scenario
        A crowd as explore --crowds prints it, or a file that holds it, instead of what follows.
    nodes
        Number of hosts.
    megabytes
        Size of the image.
    layers
        Layers of the image, all of one size.
    mbit
        Rate of each host's link, each direction, in Mbit/s.
    origin_mbit
        Rate of the origin, in Mbit/s.
    late
        Share of the hosts that want the image at some later time of the pull.
    slow
        Share that send with a tenth of their link.
    liars
        Share that flip bytes that they send.
    forgers
        Share that flip bytes, and announce hashes that fit them.
    leavers
        Share that leave in good order while they pull.
    killed
        Share that are killed while they pull.
    loss
        Share of datagrams that are lost.
    seed
        Decides every random choice.
    trace
        Write a line for each effect of a core into this file.
    report
        Write a page, plots and tables of the run into this folder (needs beiran[simulations]).
    profile
        Print the functions that took the most processor time.
    """
    shares = Shares(
        late=late, slow=slow, liars=liars, forgers=forgers, leavers=leavers, killed=killed
    )

    def flash() -> Crowd:
        return flash_crowd(
            nodes,
            round(megabytes * MEGABYTE),
            shares,
            seed=seed,
            layers=layers,
            link_bytes_per_s=mbit * MBIT,
            origin_bytes_per_s=origin_mbit * MBIT,
            loss=loss,
        )

    chosen = _read(
        scenario, kind="Crowd", read=read_crowd, made=lambda: None if scenario else flash()
    )
    chronicles: list[CrowdChronicle] = []
    with _played(f"{chosen.nodes} hosts", 1.0, trace, profile) as played:

        def prepare(pull: ImagePull) -> None:
            chronicles.append(CrowdChronicle(pull))
            played.trace_into(pull.world)

        outcome = play_crowd(chosen, prepare=prepare, progress=played.progress.to)
    about = _about_crowd(chosen, shares)
    if outcome.violation is not None:
        about["violated"] = str(outcome.violation)
    record = chronicles[0].record("A crowd that pulls one image", about, outcome)
    rows = crowd_figures(record)
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.value}{f'  ({row.meaning})' if row.meaning else ''}")
    print(f"{'CPU time':<{width}}  {played.cpu_s:.0f} s")
    page = write_crowd_report(record, report) if report is not None else None
    return played.finish(page, outcome.violation)


@dataclass
class _Played:
    """One run of a scenario: its trace, its progress bar, and the processor time it took."""

    progress: Bar
    trace: Trace | None
    profiler: cProfile.Profile | None
    cpu_s: float = 0.0

    def trace_into(self, world: "World | CrowdWorld") -> None:
        """Trace what happens in a world, if a trace was asked for."""
        if self.trace is not None:
            world.trace = self.trace.line

    def finish(self, page: Path | None, violation: Violation | None) -> int:
        """Print trace, profile, page and violation. Returns the exit code."""
        if self.trace is not None:
            print(f"\ntrace {self.trace.lines} lines, sha256 {self.trace.digest}")
        if self.profiler is not None:
            print("\n" + profile_text(self.profiler))
        if page is not None:
            print(f"\n{page}")
        if violation is None:
            return DONE
        print(f"\nVIOLATED: {violation}")
        return VIOLATED


@contextmanager
def _played(label: str, length: float, trace: Path | None, profile: bool) -> Iterator[_Played]:
    """Measure and trace the run that the block makes."""
    with ExitStack() as stack:
        tracer = Trace(stack.enter_context(trace.open("w"))) if trace is not None else None
        progress = stack.enter_context(bar(label, length))
        stack.enter_context(rare_collections())
        played = _Played(progress, tracer, cProfile.Profile() if profile else None)
        began = time.process_time()
        if played.profiler is not None:
            played.profiler.enable()
        yield played
        if played.profiler is not None:
            played.profiler.disable()
        played.cpu_s = time.process_time() - began


def _read(text: str, *, kind: str, read: Callable[[str], T], made: Callable[[], T | None]) -> T:
    """Return a scenario that options describe (``made``), or read one from text or a file."""
    chosen = made()
    if chosen is not None:
        return chosen
    if text.lstrip().startswith(f"{kind}("):
        return read(text)
    try:
        return read(Path(text).read_text())
    except OSError:
        raise SettingsError(f"{text}: no such {kind.lower()}, and no such file") from None


def _make(name: str, nodes: int, seed: int, loss: float) -> Scenario | None:
    """Return the scenario with this name, or None."""
    if name not in MAKERS:
        return None
    if nodes < 1 or not 0.0 <= loss <= 1.0:
        raise SettingsError("--nodes must be at least 1, --loss between 0 and 1")
    return MAKERS[name](nodes, seed, loss)


def _record(chronicle: Chronicle, name: str, outcome: Outcome) -> Record:
    scenario = outcome.scenario
    about = {"nodes": str(scenario.nodes), "seed": str(scenario.seed), "loss": f"{scenario.loss:g}"}
    if outcome.violation is not None:
        about["violated"] = str(outcome.violation)
    return chronicle.record(name if name in MAKERS else "Scenario", about)


def _about_crowd(crowd: Crowd, shares: Shares) -> dict[str, str]:
    about = {
        "nodes": str(crowd.nodes),
        "image": f"{crowd.image_bytes / MEGABYTE:g} MB in {crowd.layers} layers",
        "links": f"{crowd.link_bytes_per_s / MBIT:g} Mbit/s",
        "origin": f"{crowd.origin_bytes_per_s / MBIT:g} Mbit/s",
        "seed": str(crowd.seed),
        "loss": f"{crowd.loss:g}",
    }
    for name in shares.__struct_fields__:
        if getattr(shares, name):
            about[name] = f"{getattr(shares, name):g}"
    return about
