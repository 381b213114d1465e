"""``python -m benchmarks.pull``: pulls through the agents, on shaped links, beside their bounds.

Needs root (network namespaces, real engines) and Debian's docker-registry; what each experiment
shows is in ``docs/explanation/benchmarks.md``.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import pull_held, pull_together
from benchmarks.gossip import about_this_machine, chosen_names
from benchmarks.pull_report import PullReport
from tests.lab.engines import missing_for_engines
from tests.lab.registry import missing_for_registry


class Sizes(NamedTuple):
    """MB of the images, and how many agents pull together."""

    cold: int
    direct: int
    agents: tuple[int, ...]
    wide: int
    memory: int
    held: int
    faults: int


FULL: Final = Sizes(
    cold=200, direct=25, agents=(4, 8, 16, 32), wide=1000, memory=1000, held=200, faults=200
)
QUICK: Final = Sizes(
    cold=50, direct=10, agents=(4, 8, 16), wide=200, memory=200, held=50, faults=100
)

Experiment = Callable[[PullReport, Sizes], None]

PULL_EXPERIMENTS: Final[dict[str, Experiment]] = {
    "engines": lambda report, sizes: pull_together.engines(
        report, megabytes=sizes.cold, direct_megabytes=sizes.direct
    ),
    "agents": lambda report, sizes: pull_together.agents(
        report, megabytes=sizes.cold, counts=sizes.agents
    ),
    "slower": lambda report, sizes: pull_together.slower(
        report, megabytes=sizes.cold, counts=sizes.agents
    ),
    "wide": lambda report, sizes: pull_held.wide(report, megabytes=sizes.wide),
    "memory": lambda report, sizes: pull_held.memory(report, megabytes=sizes.memory),
    "held": lambda report, sizes: pull_held.held(report, megabytes=sizes.held),
    "tags": lambda report, _: pull_held.tags(report),
    "rebuilt": lambda report, sizes: pull_held.rebuilt(report, megabytes=sizes.held),
    "faults": lambda report, sizes: pull_together.faults(report, megabytes=sizes.faults),
    "liars": lambda report, sizes: pull_together.liars(report, megabytes=sizes.faults),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiments, print the table. Returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pull", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(PULL_EXPERIMENTS)}")
    parser.add_argument("--quick", action="store_true", help="smaller images: some minutes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all values there")
    parser.add_argument("--agents", metavar="N,N", help=argparse.SUPPRESS)
    for name in Sizes._fields:
        if name != "agents":
            flag = f"--{name}"
            parser.add_argument(flag, metavar="MB", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    try:
        names = chosen_names(given.only, list(PULL_EXPERIMENTS))
    except ValueError as error:
        parser.error(str(error))
    if reason := missing_for_engines() or missing_for_registry():
        print(f"the pull benchmark cannot run: {reason}", file=sys.stderr)
        return 2
    # Ended from outside, it still clears away what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    changed = {n: value for n in Sizes._fields if (value := getattr(given, n)) is not None}
    if given.agents is not None:
        changed["agents"] = tuple(int(count) for count in given.agents.split(","))
    sizes = (QUICK if given.quick else FULL)._replace(**changed)
    about = {**about_this_machine(), "load": f"{os.getloadavg()[0]:.1f}"}
    print(json.dumps(about))
    report = PullReport(lambda line: print(line, flush=True))
    broken = []
    for name in names:
        began = time.monotonic()
        print(f"{name}:", flush=True)
        try:
            PULL_EXPERIMENTS[name](report, sizes)
        except (RuntimeError, AssertionError, TimeoutError) as error:  # a failure is a result
            print(f"  {error}; the rest of {name} is left out", flush=True)
            broken.append(name)
        print(f"  took {time.monotonic() - began:.0f} s", flush=True)
        if given.json:
            report.write(given.json, about)
    print()
    print(report.table())
    for text in (missed := report.missed()):
        print(f"target missed: {text}")
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
