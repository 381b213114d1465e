"""Many hosts that pull one image in the same second: cold, and with faults in the middle."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from beiran.settings.settings import PORT as PEER_PORT
from benchmarks.process_cost import measure_cost
from benchmarks.published import Published, random_image, usual_layers
from benchmarks.pull_lab import Pulled, PullLab, Together, bound_s, last_s
from benchmarks.pull_report import PullReport
from tests.lab.agents import RunningAgent
from tests.lab.origin import PORT as ORIGIN_PORT

RATE_MBIT: Final = 50.0
SLOWER_MBIT: Final = 20.0
SLOWED_MBIT: Final = 0.08  # 10 kB/s
PEERS_WITH_FAULTS: Final = 8
LIARS: Final = 3


class Run(NamedTuple):
    """A cold pull by agents."""

    last_s: float
    bound_s: float
    egress: float
    cpu_s_per_gb: float
    counter_error_percent: float


def engines(report: PullReport, *, megabytes: int, direct_megabytes: int) -> None:
    """Real engines, through their mirrors; beside them the same without beiran."""
    hosts = 8
    image = random_image("cold", usual_layers(megabytes))
    small = random_image("direct", usual_layers(direct_megabytes))
    with PullLab(hosts) as lab:
        lab.publish(image, small)
        lab.start_engines(lab.hosts)
        lab.shape(RATE_MBIT)
        before = lab.link_bytes()
        name = f"{lab.address}/library/{small.reference}"
        pulls = {host.name: partial(lab.docker_pull, host, name) for host in lab.hosts}
        took = last_s(Together(pulls).results())
        sent = lab.link_bytes()[lab.origin] - before[lab.origin]
        report.record("direct.time", took / bound_s(small.size_bytes, hosts, RATE_MBIT))
        report.record("direct.egress", sent / small.size_bytes)
        lab.start_agents(lab.hosts)
        before = lab.link_bytes()
        pulls = {host.name: partial(lab.docker_pull, host, image.reference) for host in lab.hosts}
        took = last_s(Together(pulls).results())
        sent = lab.link_bytes()[lab.origin] - before[lab.origin]
        report.record("engines.last", took)
        report.record("engines.time", took / bound_s(image.size_bytes, hosts, RATE_MBIT))
        report.record("engines.egress", sent / image.size_bytes)


def agents(report: PullReport, *, megabytes: int, counts: Sequence[int]) -> None:
    """Agents alone, with layout folders."""
    image = random_image("cold", usual_layers(megabytes))
    for count in counts:
        run = _pull_cold(image, count, RATE_MBIT)
        _record(report, f"agents{count}", run)
        if count == 8:
            report.record("counters.error", run.counter_error_percent)
        if count == 32:
            report.record("agents.cpu", run.cpu_s_per_gb)
    _record_growth(report, "agents")


def slower(report: PullReport, *, megabytes: int, counts: Sequence[int]) -> None:
    """The same with slower links, where the processors of one machine are enough for 32 hosts."""
    image = random_image("cold", usual_layers(megabytes))
    for count in (min(counts), max(counts)):
        _record(report, f"slower{count}", _pull_cold(image, count, SLOWER_MBIT))
    _record_growth(report, "slower")


def _record(report: PullReport, key: str, run: Run) -> None:
    report.record(f"{key}.last", run.last_s)
    report.record(f"{key}.time", run.last_s / run.bound_s)
    report.record(f"{key}.egress", run.egress)


def _record_growth(report: PullReport, key: str) -> None:
    few, many = report.value(f"{key}4.last"), report.value(f"{key}32.last")
    if few and many:
        report.record(f"{key}.growth", many / few)


def _pull_cold(image: Published, count: int, rate_mbit: float) -> Run:
    with PullLab(count) as lab:
        lab.publish(image)
        lab.start_agents(lab.hosts)
        lab.shape(rate_mbit)
        lab.count_received()
        before, cpu_before = lab.link_bytes(), _cpu_s(lab.agents)
        took = last_s(Together(_pulls(lab, image)).results())
        sent = {host: n - before[host] for host, n in lab.link_bytes().items()}
        cpu_s = _cpu_s(lab.agents) - cpu_before
        counted = [agent.get("/info")["counters"] for agent in lab.agents]
        from_peers = lab.received_bytes(PEER_PORT)
        errors = [
            abs(sum(c[name] for c in counted) / truth - 1) * 100
            for name, truth in (
                ("blob_bytes_from_origin", lab.received_bytes(ORIGIN_PORT)),
                ("blob_bytes_from_peers", from_peers),
                ("blob_bytes_served", from_peers),
            )
        ]
        sent_twice = sum(sent[host] for host in lab.hosts) / from_peers - 1
        wasted = sum(c["blob_bytes_wasted"] for c in counted)
        print(
            f"  {count} agents: bound {bound_s(image.size_bytes, count, rate_mbit):.1f} s, "
            f"{cpu_s:.1f} CPU-s, wasted {wasted / image.size_bytes:.3f} F, "
            f"counters off by {', '.join(f'{error:.2f}' for error in errors)} %, "
            f"{100 * sent_twice:.2f} % more left the hosts than came to them from peers",
            flush=True,
        )
        return Run(
            last_s=took,
            bound_s=bound_s(image.size_bytes, count, rate_mbit),
            egress=sent[lab.origin] / image.size_bytes,
            cpu_s_per_gb=cpu_s / (count * image.size_bytes / 1e9),
            counter_error_percent=max(errors),
        )


def _pulls(lab: PullLab, image: Published) -> dict[str, Callable[[], object]]:
    return {a.name: partial(lab.agent_pull, a, image.reference) for a in lab.agents}


def _cpu_s(agents: Sequence[RunningAgent]) -> float:
    return sum(measure_cost(agent.pid).cpu_s for agent in agents)


# --- faults ---------------------------------------------------------------------------------


def faults(report: PullReport, *, megabytes: int) -> None:
    """One of 8 is lost in the middle of a cold pull; how much later the others have it."""
    image = random_image("cold", usual_layers(megabytes))
    undisturbed = last_s(_pull_with_fault(image, "nothing")[0])
    print(f"  undisturbed: {undisturbed:.2f} s", flush=True)
    for fault in ("killed", "cut", "slowed"):
        others, subject = _pull_with_fault(image, fault)
        failed = [pulled for pulled in (*others, *subject) if pulled.failure]
        for pulled in failed:
            print(f"  {pulled.name}: {pulled.failure}")
        report.record(f"{fault}.failed", len(failed))
        report.record(f"{fault}.added", max(p.took_s for p in others) - undisturbed)


def _pull_with_fault(image: Published, fault: str) -> tuple[list[Pulled], list[Pulled]]:
    """The pulls of the others, and of who it was done to where that is one that must succeed."""
    with PullLab(PEERS_WITH_FAULTS) as lab:
        lab.publish(image)
        lab.start_agents(lab.hosts)
        lab.shape(RATE_MBIT)
        subject = lab.agents[-1]
        together = Together(_pulls(lab, image))
        together.sleep_until(bound_s(image.size_bytes, PEERS_WITH_FAULTS, RATE_MBIT) / 2)
        if fault == "killed":
            subject.kill9()
        elif fault == "cut":
            lab.lan.silence(subject.host)
        elif fault == "slowed":
            lab.shape(SLOWED_MBIT, [subject.host])
        others = together.results(without=[subject.name])
        if fault == "cut":
            lab.lan.hear_again(subject.host)
        elif fault == "slowed":
            lab.shape(RATE_MBIT, [subject.host])
        if fault == "killed":
            return others, []
        return others, [together.result(subject.name)]


def liars(report: PullReport, *, megabytes: int) -> None:
    """Three of 8 send wrong bytes (``pull_liar``), of what they hold and announce rightly."""
    image = random_image("cold", usual_layers(megabytes))
    with PullLab(PEERS_WITH_FAULTS) as lab:
        lab.publish(image)
        lying = [lab.prepare_agent(host) for host in lab.hosts[:LIARS]]
        for agent in lying:
            agent.words = [sys.executable, "-m", "benchmarks.pull_liar", *agent.words[1:]]
            agent.launch()
        lab.start_agents(lab.hosts[LIARS:])
        lab.shape(RATE_MBIT)
        honest = lab.agents[LIARS:]
        results = Together(_pulls(lab, image)).results()
        wrong = [pulled for pulled in results if pulled.failure]
        for pulled in wrong:
            print(f"  {pulled.name}: {pulled.failure}")
        damaged = sum(not image.is_in_layout(agent.layout or Path()) for agent in honest)
        logs = [agent.log.read_text() for agent in honest]
        unnamed = [
            agent.name
            for agent in lying
            if not any(f"stopped fetching from node {agent.name} (" in log for log in logs)
        ]
        report.record("liars.wrong", len(wrong) + damaged)
        report.record("liars.named", len(unnamed))
        last = max(pulled.took_s for pulled in results)
        bound = bound_s(image.size_bytes, PEERS_WITH_FAULTS, RATE_MBIT)
        report.record("liars.time", last / bound)
