"""Agents on hosts of their own find each other, and notice who is gone and who is back."""

import pytest

from tests.lab.agents import await_one_state, await_state, eventually
from tests.lab.conftest import OpenAgents

pytestmark = pytest.mark.lab


def test_three_hosts_without_configuration_find_each_other(open_agents: OpenAgents) -> None:
    agents = open_agents(3)
    running = agents.start_all(agents.lan.hosts)
    await_one_state(running)
    for agent in running:
        listed = agent.cli("node", "list").stdout
        assert all(other.name in listed for other in running)
        assert all(other.host.address in listed for other in running)


def test_agents_without_beacons_find_each_other_by_address(open_agents: OpenAgents) -> None:
    agents = open_agents(3)
    first, *others = agents.lan.hosts
    running = [agents.start(first, beacon=False)]
    running += [agents.start(host, beacon=False, join=first.address) for host in others]
    await_one_state(running)


def test_agents_of_two_clusters_on_one_lan_do_not_mix(open_agents: OpenAgents) -> None:
    agents = open_agents(4)
    ours = agents.start_all(agents.lan.hosts[:2])
    theirs = agents.start_all(agents.lan.hosts[2:], cluster="other")
    await_one_state(ours)
    await_one_state(theirs)
    assert set(ours[0].states()) == {agent.name for agent in ours}
    assert set(theirs[0].states()) == {agent.name for agent in theirs}
    eventually(lambda: ours[0].get("/info")["counters"]["other_cluster_packets"] > 0, True)


def test_a_killed_agent_is_offline_everywhere_and_online_again_when_it_is_back(
    open_agents: OpenAgents,
) -> None:
    agents = open_agents(3)
    running = agents.start_all(agents.lan.hosts)
    await_one_state(running)
    victim, *others = running
    generation = victim.get("/info")["generation"]
    with others[0].events() as events:
        victim.kill9()
        events.await_event(event="node.offline", node=victim.uuid)
    await_state(others, victim, "down")
    assert all(victim.name not in other.online() for other in others)
    victim.start()
    await_one_state(running)
    assert victim.get("/info")["generation"] > generation


def test_a_stopped_agent_leaves_with_code_0_and_is_never_shown_as_failed(
    open_agents: OpenAgents,
) -> None:
    agents = open_agents(3)
    running = agents.start_all(agents.lan.hosts)
    await_one_state(running)
    leaver, *others = running
    with others[0].events() as events:
        assert leaver.stop() == 0
        events.await_event(event="node.left", node=leaver.uuid)
        await_state(others, leaver, "left")
        assert "node.offline" not in [event["event"] for event in events.waiting()]


def test_a_silent_host_goes_offline_and_comes_back_by_itself(open_agents: OpenAgents) -> None:
    agents = open_agents(4)
    running = agents.start_all(agents.lan.hosts)
    await_one_state(running)
    silent, *others = running
    agents.lan.silence(silent.host)
    await_state(others, silent, "down")
    agents.lan.hear_again(silent.host)
    await_one_state(running, timeout_s=60)


def test_a_stopped_and_continued_agent_declares_no_member_offline(open_agents: OpenAgents) -> None:
    agents = open_agents(4)
    running = agents.start_all(agents.lan.hosts)
    await_one_state(running)
    stalled, *others = running
    with stalled.events() as events:
        stalled.pause()
        await_state(others, stalled, "down")
        stalled.resume()
        await_one_state(running)
        assert "node.offline" not in [event["event"] for event in events.waiting()]


def test_a_quarter_of_all_packets_lost_takes_no_agent_offline(open_agents: OpenAgents) -> None:
    agents = open_agents(6)
    running = agents.start_all(agents.lan.hosts, engine="oci")
    await_one_state(running)
    streams = [agent.events() for agent in running]
    for agent in running:
        agents.lan.drop(agent.host, 0.25)
    # Something to wait for: news of every one, one after the other, at all of them.
    for agent in running:
        image = agent.add_image("news")
        for stream in streams:
            stream.await_event(event="image.added", node=agent.uuid, image=image, timeout_s=60)
    for stream in streams:
        events = [event["event"] for event in [*stream.passed, *stream.waiting()]]
        assert "node.offline" not in events
        stream.close()
