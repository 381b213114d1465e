"""No host fails, and none may be shown as failed: idle, loss, stalled hosts, a cut that heals.

Most of it is waiting, so the programs' clusters run at the same time, on LANs of their own.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.cluster import Cluster, Kind, open_cluster
from benchmarks.process_cost import Cost, measure_cost
from benchmarks.report import MISSED, Report

PAUSED_SHARE: Final = 0.4  # 8 of 20
PAUSE_S: Final = 8.0
HEAL_TIMEOUT_S: Final = 90.0
STABLE_S: Final = 5.0
TRAFFIC_SETTLE_S: Final = 60.0  # news of the start is repeated for a while


def _with_clusters(
    kinds: Sequence[Kind], hosts: int, act: Callable[[Sequence[Cluster]], None]
) -> None:
    with ExitStack() as stack:
        act([stack.enter_context(open_cluster(kind, hosts)) for kind in kinds])


def idle(kinds: Sequence[Kind], report: Report, *, hosts: int, seconds: float) -> None:
    """Idle for this long: false offlines, traffic on the link, memory and processor time."""

    def act(clusters: Sequence[Cluster]) -> None:
        time.sleep(TRAFFIC_SETTLE_S)
        marks = [cluster.chronicle.mark() for cluster in clusters]
        sent = [cluster.lan.counters() for cluster in clusters]
        costs = [_costs(cluster) for cluster in clusters]
        began = time.monotonic()
        time.sleep(seconds)
        for cluster, mark, before, cost in zip(clusters, marks, sent, costs, strict=True):
            name = cluster.gossiper.name
            took = time.monotonic() - began
            after = cluster.lan.counters()
            per_node = [after[host] - before[host] for host in cluster.hosts]
            report.record(
                f"bytes{hosts}",
                name,
                statistics.mean(c.bytes for c in per_node) / took,
                [c.bytes / took for c in per_node],
            )
            if hosts == 20:
                report.record("idle20.offline", name, len(cluster.false_offline(mark)))
                report.record(
                    "packets20",
                    name,
                    statistics.mean(c.packets for c in per_node) / took,
                    [c.packets / took for c in per_node],
                )
            if hosts == 20 and name != "beiran":  # beiran's is measured with a real Docker
                now = _costs(cluster)
                used = [b.cpu_s - a.cpu_s for a, b in zip(cost, now, strict=True)]
                report.record("rss", name, statistics.median(c.rss_bytes for c in now) / 1e6)
                report.record("cpu", name, statistics.median(used) / took * 100)

    _with_clusters(kinds, hosts, act)


def _costs(cluster: Cluster) -> list[Cost]:
    return [measure_cost(cluster.gossiper.pid(host)) for host in cluster.hosts]


def growth(kinds: Sequence[Kind], report: Report, *, seconds: float) -> None:
    """Idle traffic per node at 5 and at 30."""
    for hosts in (5, 30):
        idle(kinds, report, hosts=hosts, seconds=seconds)
    for kind in kinds:
        few, many = (report.value(f"bytes{hosts}", kind.name) for hosts in (5, 30))
        report.record("growth", kind.name, many / few * 100)


def loss(
    kinds: Sequence[Kind], report: Report, *, hosts: int, percent: int, seconds: float
) -> None:
    """This share of all packets lost at every host: false offlines."""

    def act(clusters: Sequence[Cluster]) -> None:
        marks = [cluster.chronicle.mark() for cluster in clusters]
        for cluster in clusters:
            for host in cluster.hosts:
                cluster.lan.drop(host, percent / 100)
        time.sleep(seconds)
        for cluster, mark in zip(clusters, marks, strict=True):
            false = cluster.false_offline(mark)
            report.record(f"loss{percent}.offline", cluster.gossiper.name, len(false))

    _with_clusters(kinds, hosts, act)


def pauses(kinds: Sequence[Kind], report: Report, *, hosts: int, seconds: float) -> None:
    """8 of 20 stopped (SIGSTOP) for 8 s every 16 s: who never stopped must not go offline."""
    stalling = int(hosts * PAUSED_SHARE)

    def act(clusters: Sequence[Cluster]) -> None:
        marks = [cluster.chronicle.mark() for cluster in clusters]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for cluster in clusters:
                cluster.gossiper.pause(cluster.hosts[-stalling:])
            time.sleep(PAUSE_S)
            for cluster in clusters:
                cluster.gossiper.resume(cluster.hosts[-stalling:])
            time.sleep(PAUSE_S)
        for cluster, mark in zip(clusters, marks, strict=True):
            healthy = {host.name for host in cluster.hosts[:-stalling]}
            false = [seen for seen in cluster.false_offline(mark) if seen.subject in healthy]
            by_healthy = [seen for seen in false if seen.observer in healthy]
            report.record("pause.healthy", cluster.gossiper.name, len(false))
            report.record("pause.by_healthy", cluster.gossiper.name, len(by_healthy))

    _with_clusters(kinds, hosts, act)


def partition(
    kinds: Sequence[Kind], report: Report, *, hosts: int, seconds: float, runs: int
) -> None:
    """Half of the hosts cut off for this long, then healed: until all see all for good.

    Each half sends news during the cut. Beiran's nodes have one state when all of them have this
    news, too. The other programs keep no events for absent members.
    """
    times: dict[str, list[float]] = {kind.name: [] for kind in kinds}

    def act(clusters: Sequence[Cluster]) -> None:
        for run in range(runs):
            marks = [cluster.chronicle.mark() for cluster in clusters]
            for cluster in clusters:
                cluster.lan.partition([cluster.hosts[: hosts // 2], cluster.hosts[hosts // 2 :]])
            time.sleep(seconds)
            for cluster in clusters:
                for half in (0, -1):
                    cluster.gossiper.tell(cluster.hosts[half], f"cut{run}{half}")
            time.sleep(1.0)
            healed = []
            for cluster in clusters:
                cluster.lan.heal()
                healed.append(time.monotonic())
            for cluster, mark, at in zip(clusters, marks, healed, strict=True):
                together = _one_state(cluster, mark, run)
                times[cluster.gossiper.name].append(together - at)
            time.sleep(STABLE_S)

    _with_clusters(kinds, hosts, act)
    for kind in kinds:
        report.record("heal20.worst", kind.name, max(times[kind.name]), times[kind.name])


def _one_state(cluster: Cluster, mark: int, run: int) -> float:
    deadline = time.monotonic() + HEAL_TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        at = cluster.chronicle.all_see(cluster.names, cluster.names, since=0, timeout_s=left)
        if at is None:
            break
        if cluster.gossiper.name == "beiran":
            for half in (0, -1):
                heard = cluster.gossiper.heard(
                    f"cut{run}{half}", cluster.hosts, since=mark, timeout_s=left
                )
                if len(heard) < len(cluster.hosts):
                    return MISSED
                at = max(at, *heard.values())
        settled = cluster.chronicle.mark()
        time.sleep(STABLE_S)
        if not cluster.false_offline(settled):
            return at
    return MISSED
