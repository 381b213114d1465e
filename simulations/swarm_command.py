"""``python -m simulations crowd``: one image, wanted by many at the same moment."""

import cProfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from beiran.errors import SettingsError
from simulations.kernel.trace import Trace
from simulations.report.swarm.page import write_crowd_report
from simulations.report.swarm.record import Chronicle
from simulations.report.swarm.summary import crowd_figures
from simulations.running.collector import rare_collections
from simulations.running.profile import profile_text
from simulations.running.progress import bar
from simulations.swarm.crowd import Stage
from simulations.swarm.flash import Shares, flash_crowd
from simulations.swarm.scenario import Crowd, play, read_crowd
from simulations.swarm.world import MBIT

DONE: Final = 0
VIOLATED: Final = 1
MEGABYTE: Final = 1_000_000


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
    """Let a crowd pull one image, and tell how near to the bound it comes.

    Parameters
    ----------
    scenario
        A crowd as explore --crowds prints it, or a file that holds it, instead of what follows.
    nodes
        Hosts.
    megabytes
        Of the image.
    layers
        Of the image, all of one size.
    mbit
        Each host's link, each way, in Mbit/s.
    origin_mbit
        The origin's.
    late
        Share of the hosts that come at some time of the pull.
    slow
        Share that give a tenth of what others give.
    liars
        Share that flip bytes of what they give.
    forgers
        Share that flip bytes, and announce hashes that fit them.
    leavers
        Share that end in good order while they pull.
    killed
        Share that end without a word.
    loss
        Share of datagrams that are lost.
    seed
        Decides everything that is left to chance.
    trace
        Write each thing that the cores do into this file, a line each.
    report
        Write a page, plots and tables of the run into this folder (needs beiran[simulations]).
    profile
        Tell where the time went.
    """
    shares = Shares(
        late=late, slow=slow, liars=liars, forgers=forgers, leavers=leavers, killed=killed
    )
    chosen = (
        _read(scenario)
        if scenario
        else flash_crowd(
            nodes,
            round(megabytes * MEGABYTE),
            shares,
            seed=seed,
            layers=layers,
            link_bytes_per_s=mbit * MBIT,
            origin_bytes_per_s=origin_mbit * MBIT,
            loss=loss,
        )
    )
    chronicles: list[Chronicle] = []
    tracer = None
    with ExitStack() as stack:
        if trace is not None:
            tracer = Trace(stack.enter_context(trace.open("w")))
        progress = stack.enter_context(bar(f"{chosen.nodes} hosts", 1.0))

        def prepare(stage: Stage) -> None:
            chronicles.append(Chronicle(stage))
            if tracer is not None:
                stage.world.trace = tracer.line

        stack.enter_context(rare_collections())
        profiler = cProfile.Profile() if profile else None
        began = time.process_time()
        if profiler is not None:
            profiler.enable()
        outcome = play(chosen, prepare=prepare, progress=progress.to)
        if profiler is not None:
            profiler.disable()
        cpu_s = time.process_time() - began
    about = _about(chosen, shares)
    if outcome.violation is not None:
        about["violated"] = str(outcome.violation)
    record = chronicles[0].record("A crowd that pulls one image", about, outcome)
    rows = crowd_figures(record)
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.value}{f'  ({row.meaning})' if row.meaning else ''}")
    print(f"{'CPU time':<{width}}  {cpu_s:.0f} s")
    if tracer is not None:
        print(f"\ntrace {tracer.lines} lines, sha256 {tracer.digest}")
    if profiler is not None:
        print("\n" + profile_text(profiler))
    if report is not None:
        print(f"\n{write_crowd_report(record, report)}")
    if outcome.violation is None:
        return DONE
    print(f"\nVIOLATED: {outcome.violation}")
    return VIOLATED


def _read(text: str) -> Crowd:
    if text.lstrip().startswith("Crowd("):
        return read_crowd(text)
    try:
        return read_crowd(Path(text).read_text())
    except OSError:
        raise SettingsError(f"{text}: no such crowd, and no such file") from None


def _about(crowd: Crowd, shares: Shares) -> dict[str, str]:
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
