"""The lab's side of a comparison: real agents in network namespaces, timed and weighed.

``simulations.fidelity.twin`` repeats the run on virtual time. Needs root. One thread notes the
events of all agents (``benchmarks.chronicle``), so all are late by the same.
"""

import contextlib
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.cluster import KINDS, Cluster, open_cluster
from simulations.fidelity.measured import Costs, Counts, LabRun, Measured
from simulations.kernel.host import AGENT_PORT
from tests.lab.network import Host, Lan

NAMESPACE_PREFIX: Final = "brnfid"
Failing = Callable[[Host], contextlib.AbstractContextManager[None]]

ECHOES: Final = 2000
ECHO_PORT: Final = 9
ECHO_BYTES: Final = 42  # an idle ping
DETECTION_TIMEOUT_S: Final = 60.0
NEWS_TIMEOUT_S: Final = 30.0
BETWEEN_ECHOES_S: Final = 0.01
_ECHO: Final = """
import socket, sys
echo = socket.socket(fileno=int(sys.argv[1]))
while True:
    data, source = echo.recvfrom(2048)
    echo.sendto(data, source)
"""
BETWEEN_NEWS_S: Final = 0.5
BETWEEN_FAILURES_S: Final = 1.0
TRAFFIC_SETTLE_S: Final = 60.0  # updates of the start are repeated for a while


def run_lab(sizes: Sequence[int], counts: Counts, show: Callable[[str], None]) -> LabRun:
    """Measure each size. Raises: TimeoutError if agents do not converge."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return LabRun(
        commit=commit.stdout.strip(),
        cores=os.cpu_count() or 1,
        latency_s=measure_latency_s(),
        sizes=[measure(hosts, counts, show) for hosts in sizes],
        echo_s=measure_echoes_s(),
    )


def measure_latency_s(tries: int = ECHOES) -> tuple[float, float]:
    """Measure a small datagram from one namespace to another, awaited by ``select``.

    Returns: median and 90th percentile in seconds, system calls of both sides included.
    """
    times = []
    with (
        Lan(NAMESPACE_PREFIX, 2) as lan,
        contextlib.closing(lan.socket(lan.hosts[0], socket.SOCK_DGRAM)) as sender,
        contextlib.closing(lan.socket(lan.hosts[1], socket.SOCK_DGRAM)) as receiver,
    ):
        receiver.bind((lan.hosts[1].address, ECHO_PORT))
        for _ in range(tries):
            began = time.perf_counter()
            sender.sendto(bytes(ECHO_BYTES), (lan.hosts[1].address, ECHO_PORT))
            select.select([receiver], [], [], 5.0)
            receiver.recv(2048)
            times.append(time.perf_counter() - began)
    times.sort()
    return statistics.median(times), times[len(times) * 9 // 10]


def measure_echoes_s(tries: int = 200) -> list[float]:
    """Measure how long a sleeping process takes to answer this process, which sleeps too.

    Slow samples show other work on the machine. Returns seconds, in order.
    """
    times = []
    with (
        Lan(NAMESPACE_PREFIX, 2) as lan,
        contextlib.closing(lan.socket(lan.hosts[0], socket.SOCK_DGRAM)) as near,
        contextlib.closing(lan.socket(lan.hosts[1], socket.SOCK_DGRAM)) as far,
    ):
        near.bind((lan.hosts[0].address, ECHO_PORT))
        far.bind((lan.hosts[1].address, ECHO_PORT))
        echo = [sys.executable, "-c", _ECHO, str(far.fileno())]
        process = subprocess.Popen(echo, pass_fds=[far.fileno()])
        try:
            for _ in range(tries):
                time.sleep(BETWEEN_ECHOES_S)
                began = time.perf_counter()
                near.sendto(bytes(ECHO_BYTES), (lan.hosts[1].address, ECHO_PORT))
                near.recv(2048)
                times.append(time.perf_counter() - began)
        finally:
            process.kill()
            process.wait()
    return sorted(times)


def measure(hosts: int, counts: Counts, show: Callable[[str], None]) -> Measured:
    """Measure one size. Raises: TimeoutError if the agents do not converge."""
    beiran = next(kind for kind in KINDS if kind.name == "beiran")
    with open_cluster(beiran, hosts) as cluster:
        bytes_per_s, packets_per_s, idle_cpu = _idle(cluster, counts.idle_s)
        show(f"{hosts} hosts, idle: {bytes_per_s:.1f} B/s, {packets_per_s:.2f} packets/s a node")
        news, spread, news_cpu_s = _news(cluster, counts.news)
        show(f"{hosts} hosts, news: median {statistics.median(news):.4f} s")
        ends: list[float] = []
        kills = _failures(cluster, counts.kills, lambda victim: _killed(cluster, victim, ends))
        show(f"{hosts} hosts, kill: median {statistics.median(kills):.3f} s")
        silences = _failures(cluster, counts.silences, lambda victim: _silent(cluster, victim))
        show(f"{hosts} hosts, silence: median {statistics.median(silences):.2f} s")
    return Measured(
        hosts=hosts,
        idle_bytes_per_s=bytes_per_s,
        idle_packets_per_s=packets_per_s,
        news_s=news,
        spread_s=spread,
        kill_s=kills,
        silence_s=silences,
        end_s=sorted(ends),
        costs=Costs(idle_cpu, news_cpu_s),
    )


def _idle(cluster: Cluster, seconds: float) -> tuple[float, float, float]:
    """Return bytes and packets a second and node, and the share of a core that a node uses."""
    time.sleep(TRAFFIC_SETTLE_S)
    before, cpu, began = cluster.lan.counters(), _cpu_s(cluster), time.monotonic()
    time.sleep(seconds)
    after, took = cluster.lan.counters(), time.monotonic() - began
    used = _cpu_s(cluster) - cpu
    sent = [after[host] - before[host] for host in cluster.hosts]
    nodes = len(cluster.hosts)
    return (
        statistics.mean(c.bytes for c in sent) / took,
        statistics.mean(c.packets for c in sent) / took,
        used / took / nodes,
    )


def _news(cluster: Cluster, runs: int) -> tuple[list[float], list[float], float]:
    """Put images into layout folders, and wait until all agents report each.

    Returns: seconds from the folder's change to the last report, seconds from the first report to
    the last, and the processor time that one update takes of one agent.
    """
    whole, spread = [], []
    cpu = _cpu_s(cluster)
    for run in range(runs):
        mark = cluster.chronicle.mark()
        host = cluster.hosts[run % len(cluster.hosts)]
        asked = cluster.gossiper.tell(host, f"news{run}")
        heard = cluster.gossiper.heard(
            f"news{run}", cluster.hosts, since=mark, timeout_s=NEWS_TIMEOUT_S
        )
        if len(heard) == len(cluster.hosts):
            whole.append(max(heard.values()) - asked)
            spread.append(max(heard.values()) - min(heard.values()))
        time.sleep(BETWEEN_NEWS_S)
    return whole, spread, (_cpu_s(cluster) - cpu) / runs / len(cluster.hosts)


def _failures(cluster: Cluster, runs: int, failing: Failing) -> list[float]:
    """Let hosts fail and start again. Returns seconds until all others report each offline."""
    times = []
    for run in range(runs):
        victim = cluster.hosts[1 + run % (len(cluster.hosts) - 1)]
        mark = cluster.chronicle.mark()
        asked = time.monotonic()
        with failing(victim):
            times.append(
                cluster.seconds_to_all(
                    "offline", victim, since=mark, asked=asked, timeout_s=DETECTION_TIMEOUT_S
                )
            )
        cluster.gossiper.restart(victim)
        cluster.await_together()
        time.sleep(BETWEEN_FAILURES_S)
    return times


@contextlib.contextmanager
def _killed(cluster: Cluster, victim: Host, ends: list[float]) -> Iterator[None]:
    """Kill an agent; add to ``ends`` how long the kernel takes to close its connections."""
    other = next(host for host in cluster.hosts if host != victim)
    with contextlib.closing(cluster.lan.socket(other, socket.SOCK_STREAM)) as connection:
        connection.connect((victim.address, AGENT_PORT))
        began = time.monotonic()
        os.kill(cluster.gossiper.pid(victim), signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            connection.recv(1)
        ends.append(time.monotonic() - began)
    cluster.gossiper.kill(victim)
    yield


@contextlib.contextmanager
def _silent(cluster: Cluster, victim: Host) -> Iterator[None]:
    """Drop all packets from and to a host."""
    cluster.lan.silence(victim)
    yield
    cluster.gossiper.kill(victim)
    cluster.lan.hear_again(victim)


def _cpu_s(cluster: Cluster) -> float:
    """Return the processor time of all agents, threads included (proc(5), ``schedstat``)."""
    total_ns = 0
    for host in cluster.hosts:
        for task in Path(f"/proc/{cluster.gossiper.pid(host)}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9
