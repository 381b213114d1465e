"""``python -m benchmarks.gossip``: beiran beside serf and kinship, on the same machine and run.

Needs root (network namespaces). ``docs/explanation/benchmarks.md`` describes the experiments.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import agent_restarts, docker_engines, membership, news, steadiness
from benchmarks.cluster import KINDS, Kind
from benchmarks.report import Report
from tests.lab.engines import missing_for_engines

HOSTS: Final = 20
MANY_HOSTS: Final = 50


class Counts(NamedTuple):
    """How often and how long. ``peer_…`` are those of serf and kinship."""

    starts: int
    peer_starts: int
    docker_events: int
    news: int
    kills: int
    peer_kills: int
    silences: int
    leaves: int
    peer_leaves: int
    idle_s: float
    traffic_s: float
    loss_s: float
    pause_s: float
    cut_s: float
    cuts: int
    restarts: int


FULL: Final = Counts(
    starts=30,
    peer_starts=10,
    docker_events=50,
    news=100,
    kills=50,
    peer_kills=10,
    silences=10,
    leaves=100,
    peer_leaves=20,
    idle_s=600,
    traffic_s=120,
    loss_s=180,
    pause_s=120,
    cut_s=60,
    cuts=3,
    restarts=5,
)
QUICK: Final = Counts(
    starts=3,
    peer_starts=2,
    docker_events=10,
    news=20,
    kills=8,
    peer_kills=3,
    silences=3,
    leaves=10,
    peer_leaves=5,
    idle_s=60,
    traffic_s=40,
    loss_s=40,
    pause_s=48,
    cut_s=30,
    cuts=1,
    restarts=2,
)

Experiment = Callable[[Sequence[Kind], Report, Counts], None]


def _start(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    for kind in kinds:
        runs = counts.starts if kind.name == "beiran" else counts.peer_starts
        membership.start_few(kind, report, runs=min(runs, 10))
        membership.start_many(kind, report, hosts=30, runs=runs)


def _docker(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    if not any(kind.name == "beiran" for kind in kinds):
        return
    if reason := missing_for_engines():
        print(f"  left out: {reason}")
        return
    docker_engines.image_events(report, runs=counts.docker_events)


def _news(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    for kind in kinds:
        news.news(kind, report, hosts=HOSTS, runs=counts.news)


def _kill(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    for kind in kinds:
        runs = counts.kills if kind.name == "beiran" else counts.peer_kills
        for hosts in (3, HOSTS):
            membership.kills(kind, report, hosts=hosts, runs=runs)


def _silence(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    for hosts in (HOSTS, MANY_HOSTS):
        for kind in kinds:
            membership.silences(kind, report, hosts=hosts, runs=counts.silences)


def _leave(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    for kind in kinds:
        runs = counts.leaves if kind.name == "beiran" else counts.peer_leaves
        membership.leaves(kind, report, hosts=HOSTS, runs=runs)


def _idle(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    steadiness.idle(kinds, report, hosts=HOSTS, seconds=counts.idle_s)


def _growth(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    steadiness.growth(kinds, report, seconds=counts.traffic_s)


def _loss(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    for percent in (10, 25):
        steadiness.loss(kinds, report, hosts=HOSTS, percent=percent, seconds=counts.loss_s)


def _pause(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    steadiness.pauses(kinds, report, hosts=HOSTS, seconds=counts.pause_s)


def _partition(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    steadiness.partition(kinds, report, hosts=HOSTS, seconds=counts.cut_s, runs=counts.cuts)


def _restart(kinds: Sequence[Kind], report: Report, counts: Counts) -> None:
    if any(kind.name == "beiran" for kind in kinds):
        agent_restarts.restarts(report, hosts=HOSTS, runs=counts.restarts)


EXPERIMENTS: Final[dict[str, Experiment]] = {
    "start": _start,
    "docker": _docker,
    "news": _news,
    "kill": _kill,
    "silence": _silence,
    "leave": _leave,
    "idle": _idle,
    "growth": _growth,
    "loss": _loss,
    "pause": _pause,
    "partition": _partition,
    "restart": _restart,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiments, print the table. Returns 1 where beiran misses a target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gossip", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--programs", metavar="NAMES", help="of beiran, serf, kinship")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter: about 20 minutes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples there")
    for name in Counts._fields:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, metavar="N", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    try:
        names = chosen_names(given.only, list(EXPERIMENTS))
        programs = chosen_names(given.programs, [kind.name for kind in KINDS])
    except ValueError as error:
        parser.error(str(error))
    if os.geteuid() != 0:
        print("the benchmarks need root, for network namespaces", file=sys.stderr)
        return 2
    kinds = []
    for kind in KINDS:
        if kind.name in programs:
            if reason := kind.missing():
                print(f"{kind.name} is left out: {reason}")
            else:
                kinds.append(kind)
    # Ended from outside, it still clears away what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    counts = (QUICK if given.quick else FULL)._replace(
        **{name: value for name in Counts._fields if (value := getattr(given, name)) is not None}
    )
    about = about_this_machine()
    print(json.dumps(about))
    report = Report(lambda line: print(line, flush=True))
    for name in names:
        began = time.monotonic()
        print(f"{name}:", flush=True)
        try:
            EXPERIMENTS[name](kinds, report, counts)
        except TimeoutError as error:  # a program that never came together is a result too
            print(f"  {error}; the rest of {name} is left out", flush=True)
        print(f"  took {time.monotonic() - began:.0f} s", flush=True)
        if given.json:
            report.write(given.json, about)
    print()
    print(report.table())
    missed = report.missed()
    for text in missed:
        print(f"target missed: {text}")
    return 1 if missed else 0


def chosen_names(text: str | None, known: list[str]) -> list[str]:
    """The names in a list with commas, in the order of those that are known. Raises: ValueError."""
    if text is None:
        return known
    names = text.split(",")
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return [name for name in known if name in names]


def about_this_machine() -> dict[str, str]:
    """The versions and the machine, on which the figures depend."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
