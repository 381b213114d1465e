"""Compare the figures of the lab with those of its twin."""

import statistics
from typing import Final, NamedTuple

from simulations.fidelity.measured import Counts, LabRun, Measured
from simulations.fidelity.twin import HostModel, simulate

TIMES_WITHIN: Final = 0.20
BYTES_WITHIN: Final = 0.05


class Pair(NamedTuple):
    """One figure, of the lab and of the simulation."""

    name: str
    lab: float
    simulated: float
    within: float

    @property
    def difference(self) -> float:
        """The difference of the simulated figure, as a share of the lab's."""
        return self.simulated / self.lab - 1

    @property
    def agrees(self) -> bool:
        """Whether the difference is within its limit."""
        return abs(self.difference) <= self.within


def compare(lab: LabRun, *, seed: int = 1) -> list[Pair]:
    """Repeat each size of a lab's run in the simulator, and return all pairs."""
    return [
        pair
        for size in lab.sizes
        for pair in _pairs(
            size, simulate(size.hosts, _counts(size), HostModel.of(lab, size), seed=seed)
        )
    ]


def _counts(size: Measured) -> Counts:
    return Counts(
        idle_s=180.0,
        news=len(size.news_s),
        kills=len(size.kill_s),
        silences=len(size.silence_s),
    )


def _pairs(lab: Measured, twin: Measured) -> list[Pair]:
    def median(name: str, a: list[float], b: list[float]) -> Pair:
        times = (statistics.median(a), statistics.median(b))
        return Pair(f"{lab.hosts} hosts: {name} [s]", *times, TIMES_WITHIN)

    return [
        median("kill -9, offline everywhere", lab.kill_s, twin.kill_s),
        median("silent host, offline everywhere", lab.silence_s, twin.silence_s),
        median("image event, from the first report to the last", lab.spread_s, twin.spread_s),
        Pair(
            f"{lab.hosts} hosts: idle, bytes sent per node [B/s]",
            lab.idle_bytes_per_s,
            twin.idle_bytes_per_s,
            BYTES_WITHIN,
        ),
        Pair(
            f"{lab.hosts} hosts: idle, packets sent per node [1/s]",
            lab.idle_packets_per_s,
            twin.idle_packets_per_s,
            BYTES_WITHIN,
        ),
    ]


def comparison_table(pairs: list[Pair]) -> str:
    """Return a line for each pair, for people."""
    width = max(len(pair.name) for pair in pairs)
    lines = [f"{'':<{width}}  {'lab':>9}  {'simulated':>9}  difference"]
    for pair in pairs:
        verdict = "" if pair.agrees else f"  more than {pair.within:.0%}"
        lines.append(
            f"{pair.name:<{width}}  {pair.lab:>9.4g}  {pair.simulated:>9.4g}"
            f"  {pair.difference:>+9.0%}{verdict}"
        )
    return "\n".join(lines)
