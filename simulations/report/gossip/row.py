"""A run as one row of figures: its outcome, its traffic, and what it cost to simulate."""

import resource
from collections.abc import Sequence
from typing import Final

from simulations.gossip.scenario import Outcome

COUNTERS: Final = ("suspicions", "verdicts", "refutations", "syncs_begun", "bad_packets", "pauses")

Figure = str | float | int | None


def run_row(outcome: Outcome, *, cpu_s: float) -> dict[str, Figure]:
    """Return the figures of one run.

    Bytes include all headers; counters are those of the last process of each host.
    """
    world, scenario = outcome.world, outcome.scenario
    hosts = len(world.hosts)
    host_seconds = max(hosts * world.now, 1e-9)
    row: dict[str, Figure] = {
        "nodes": scenario.nodes,
        "seed": scenario.seed,
        "loss": scenario.loss,
        "violation": str(outcome.violation) if outcome.violation is not None else "",
        "converged_after_s": outcome.converged_after_s,
        "virtual_s": world.now,
        "bytes_per_node_s": sum(host.traffic.bytes for host in world.hosts) / host_seconds,
        "packets_per_node_s": sum(host.traffic.packets for host in world.hosts) / host_seconds,
    }
    for counter in COUNTERS:
        row[counter] = sum(host.node.counters[counter] for host in world.hosts)
    row["steps"] = world.steps
    row["cpu_s"] = cpu_s
    row["steps_per_cpu_s"] = world.steps / max(cpu_s, 1e-9)
    row["memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return row


def traffic_lines(outcome: Outcome) -> list[str]:
    """Return packets and bytes per host and second, by kind."""
    world = outcome.world
    host_seconds = max(len(world.hosts) * world.now, 1e-9)
    packets: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for host in world.hosts:
        for kind, (count, size) in host.traffic.by_kind().items():
            packets[kind] = packets.get(kind, 0) + count
            sizes[kind] = sizes.get(kind, 0) + size
    lines = [f"{'sent per host':<14} {'packets/s':>10} {'bytes/s':>10}"]
    for kind, count in sorted(packets.items(), key=lambda item: -sizes[item[0]]):
        per_s = (count / host_seconds, sizes[kind] / host_seconds)
        lines.append(f"{kind:<14} {per_s[0]:>10.3f} {per_s[1]:>10.1f}")
    return lines


def figure_lines(row: dict[str, Figure]) -> Sequence[str]:
    """Return a row as lines for people."""
    width = max(map(len, row))
    return [f"{name:<{width}}  {_text(value)}" for name, value in row.items()]


def _text(value: Figure) -> str:
    if value is None:
        return "never"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else value
