"""Seconds from an agent's restart until all agents show the right holders again. Only beiran.

Each host holds an image of its own and one in common. While an agent is down, the benchmark removes
one image from its layout folder and adds another.
"""

import time
from typing import Final

from benchmarks.cluster import NAMESPACE_PREFIX
from benchmarks.report import MISSED, Report
from tests.lab.agents import Agents, RunningAgent
from tests.lab.layouts import add_image, remove_image
from tests.lab.network import Lan

CONVERGENCE_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 5.0
POLL_S: Final = 0.02

Holders = dict[str, set[str]]


def restarts(report: Report, *, hosts: int, runs: int) -> None:
    """One agent restarted, the same without its database, and all at once."""
    one, wiped, everyone = [], [], []
    with Lan(NAMESPACE_PREFIX, hosts) as lan, Agents(lan) as started:
        agents = started.start_all(lan.hosts, engine="oci")
        expected: Holders = {}
        for agent in agents:
            for tag in ("common", f"own-{agent.name}"):
                _add(agent, tag, expected)
        _await_holders(agents, expected)
        time.sleep(SETTLE_S)
        for run in range(runs):
            agent = agents[run % hosts]
            one.append(_restart(agents, [agent], expected, run, wipe=False))
            wiped.append(_restart(agents, [agent], expected, run, wipe=True))
            everyone.append(_restart(agents, agents, expected, run, wipe=False))
    report.record("restart.one", "beiran", max(one), one)
    report.record("restart.wiped", "beiran", max(wiped), wiped)
    report.record("restart.all", "beiran", max(everyone), everyone)


def _restart(
    agents: list[RunningAgent],
    again: list[RunningAgent],
    expected: Holders,
    run: int,
    *,
    wipe: bool,
) -> float:
    """Seconds from the launch (of one), or from the last being ready (of all)."""
    for agent in again:
        agent.ask_to_stop()
    for agent in again:
        agent.await_end()
        if wipe:
            agent.wipe_database()
    changed = again[0]
    if run > 0 or wipe or len(again) > 1:
        _remove(changed, f"changed-{changed.name}", expected)
    _add(changed, f"changed-{changed.name}", expected, seed=f"{run}-{wipe}-{len(again)}")
    began = time.monotonic()
    for agent in again:
        agent.launch()
    for agent in again:
        ready = agent.await_ready()
    if len(again) > 1:
        began = ready
    took = _await_holders(agents, expected) - began
    time.sleep(SETTLE_S)
    return took


def _add(agent: RunningAgent, tag: str, expected: Holders, *, seed: str = "") -> None:
    assert agent.layout is not None
    image = add_image(agent.layout, tag, layers=2, seed=seed)
    expected.setdefault(image, set()).add(agent.name)


def _remove(agent: RunningAgent, tag: str, expected: Holders) -> None:
    assert agent.layout is not None
    image = remove_image(agent.layout, tag)
    if image is not None:
        expected[image].discard(agent.name)
        if not expected[image]:
            del expected[image]


def _await_holders(agents: list[RunningAgent], expected: Holders) -> float:
    """Wait until all agents show the right holders. Returns the time; ``MISSED`` at the limit."""
    names = {agent.uuid: agent.name for agent in agents}
    everyone = set(names.values())
    deadline = time.monotonic() + CONVERGENCE_TIMEOUT_S
    waiting = list(agents)
    while time.monotonic() < deadline:
        still = []
        for agent in waiting:
            shown = {
                image: {names.get(uuid, uuid) for uuid in holders}
                for image, holders in agent.holders().items()
            }
            if shown != expected or agent.online() != everyone:
                still.append(agent)
        if not still:
            if len(waiting) == len(agents):
                return time.monotonic()
            still = list(agents)  # all of them at one time
        waiting = still
        time.sleep(POLL_S)
    return MISSED
