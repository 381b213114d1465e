"""Benchmarks of membership: starting together, crashing, falling silent, leaving."""

import time
from typing import Final

from benchmarks.chronicle import Chronicle
from benchmarks.cluster import NAMESPACE_PREFIX, TOGETHER_TIMEOUT_S, Cluster, Kind, open_cluster
from benchmarks.report import MISSED, Report
from tests.lab.network import Host, Lan

DETECTION_TIMEOUT_S: Final = 60.0
LEAVE_TIMEOUT_S: Final = 30.0
BETWEEN_S: Final = 1.0


def start_few(kind: Kind, report: Report, *, runs: int) -> None:
    """3 hosts: from the launch of the last until all see all."""
    times = []
    for _ in range(runs):
        launched, _, together = _start_once(kind, 3)
        times.append(together - launched)
    report.record("start3", kind.name, max(times), times)


def start_many(kind: Kind, report: Report, *, hosts: int, runs: int) -> None:
    """All at once: from the last being ready until all see all."""
    times = []
    for _ in range(runs):
        _, ready, together = _start_once(kind, hosts)
        times.append(max(0.0, together - ready))
    report.record_times("start30", kind.name, times)


def _start_once(kind: Kind, hosts: int) -> tuple[float, float, float]:
    """Returns when the last was launched, when it was ready, and when all saw all."""
    with (
        Lan(NAMESPACE_PREFIX, hosts) as lan,
        Chronicle() as chronicle,
        kind.make(lan, chronicle) as gossiper,
    ):
        names = [host.name for host in lan.hosts]
        launched, ready = gossiper.start(lan.hosts)
        together = chronicle.all_see(names, names, since=0, timeout_s=TOGETHER_TIMEOUT_S)
    return launched, ready, MISSED if together is None else together


def kills(kind: Kind, report: Report, *, hosts: int, runs: int) -> None:
    """``kill -9``: until all others show it offline."""
    times = []
    with open_cluster(kind, hosts) as cluster:
        for run in range(runs):
            victim = _victim(cluster, run)
            mark = cluster.chronicle.mark()
            asked = time.monotonic()
            cluster.gossiper.kill(victim)
            times.append(
                cluster.seconds_to_all(
                    "offline", victim, since=mark, asked=asked, timeout_s=DETECTION_TIMEOUT_S
                )
            )
            _bring_back(cluster, victim)
    report.record_times(f"kill{hosts}", kind.name, times)


def silences(kind: Kind, report: Report, *, hosts: int, runs: int) -> None:
    """All packets of a host dropped: until all others show it offline."""
    times = []
    with open_cluster(kind, hosts) as cluster:
        for run in range(runs):
            victim = _victim(cluster, run)
            mark = cluster.chronicle.mark()
            asked = time.monotonic()
            cluster.lan.silence(victim)
            times.append(
                cluster.seconds_to_all(
                    "offline", victim, since=mark, asked=asked, timeout_s=DETECTION_TIMEOUT_S
                )
            )
            # How it finds back by itself is the partition's experiment.
            cluster.gossiper.kill(victim)
            cluster.lan.hear_again(victim)
            _bring_back(cluster, victim)
    report.record_times(f"silence{hosts}", kind.name, times)


def leaves(kind: Kind, report: Report, *, hosts: int, runs: int) -> None:
    """A graceful leave: until all others know, and whether any took it for a failure."""
    times = []
    failed = 0
    with open_cluster(kind, hosts) as cluster:
        for run in range(runs):
            leaver = _victim(cluster, run)
            mark = cluster.chronicle.mark()
            asked = cluster.gossiper.leave(leaver)
            times.append(
                cluster.seconds_to_all(
                    "left", leaver, since=mark, asked=asked, timeout_s=LEAVE_TIMEOUT_S
                )
            )
            cluster.gossiper.ended(leaver)
            failed += bool(cluster.false_offline(mark))
            _bring_back(cluster, leaver)
    report.record_times("leave20", kind.name, times)
    report.record("leave20.failed", kind.name, failed)


def _victim(cluster: Cluster, run: int) -> Host:
    # Not the first, whose address the others join.
    return cluster.hosts[1 + run % (len(cluster.hosts) - 1)]


def _bring_back(cluster: Cluster, host: Host) -> None:
    cluster.gossiper.restart(host)
    cluster.await_together()
    time.sleep(BETWEEN_S)
