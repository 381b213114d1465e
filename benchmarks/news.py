"""News: a holding that one agent learns of (a user event, a broadcast) until all have it."""

import time
from typing import Final

from benchmarks.cluster import Kind, last, open_cluster
from benchmarks.report import MISSED, Report

NEWS_TIMEOUT_S: Final = 45.0  # what serf's tick misses comes with its push-pull, every 30 s
BETWEEN_S: Final = 0.5


def news(kind: Kind, report: Report, *, hosts: int, runs: int) -> None:
    """beiran: an image is added to the layout folder of one host (its agent has to notice), and
    is in the databases of all; serf: ``event``; kinship: ``broadcast``.
    """
    times = []
    with open_cluster(kind, hosts, settle_s=10.0) as cluster:
        for run in range(runs):
            mark = cluster.chronicle.mark()
            asked = cluster.gossiper.tell(cluster.hosts[run % hosts], f"news{run}")
            heard = cluster.gossiper.heard(
                f"news{run}", cluster.hosts, since=mark, timeout_s=NEWS_TIMEOUT_S
            )
            times.append(last(heard, hosts) - asked)
            time.sleep(BETWEEN_S)
    report.record_times("news", kind.name, times)
    report.record("news.missed", kind.name, times.count(MISSED))
