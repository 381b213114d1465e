"""All agents converge to the same holders after cuts, restarts and lost databases."""

import pytest

from tests.lab.agents import await_holders, await_one_state, await_state
from tests.lab.conftest import OpenAgents
from tests.lab.layouts import remove_image

pytestmark = pytest.mark.lab


def test_an_image_put_into_one_layout_folder_appears_everywhere_and_vanishes_again(
    open_agents: OpenAgents,
) -> None:
    agents = open_agents(3)
    running = agents.start_all(agents.lan.hosts, engine="oci")
    await_one_state(running)
    holder = running[1]
    image = holder.add_image("one")
    await_holders(running, {image: {holder.uuid}})
    for agent in running:
        (row,) = agent.get("/images?all=true")["images"]
        assert len(row["layers"]) == 2
        assert {layer["digest"] for layer in agent.get("/layers?all=true")["layers"]} == set(
            row["layers"]
        )
    assert holder.layout is not None
    remove_image(holder.layout, "one")
    await_holders(running, {})


def test_both_halves_of_a_partition_show_one_state_after_it_heals(open_agents: OpenAgents) -> None:
    agents = open_agents(4)
    running = agents.start_all(agents.lan.hosts, engine="oci")
    await_one_state(running)
    left, right = running[:2], running[2:]
    agents.lan.partition([[agent.host for agent in left], [agent.host for agent in right]])
    for half, others in ((left, right), (right, left)):
        for gone in others:
            await_state(half, gone, "down")
    images = {half[0].add_image("meanwhile"): {half[0].uuid} for half in (left, right)}
    agents.lan.heal()
    await_one_state(running, timeout_s=60)
    await_holders(running, images)


def test_a_database_deleted_while_its_agent_was_down_comes_back_from_the_peers(
    open_agents: OpenAgents,
) -> None:
    agents = open_agents(3)
    running = agents.start_all(agents.lan.hosts, engine="oci")
    images = {agent.add_image("own"): {agent.uuid} for agent in running}
    await_holders(running, images)
    running[0].restart(wipe_database=True)
    await_one_state(running)
    await_holders(running, images)


def test_images_changed_while_their_agent_was_down_are_right_after_its_start(
    open_agents: OpenAgents,
) -> None:
    agents = open_agents(3)
    running = agents.start_all(agents.lan.hosts, engine="oci")
    changed = running[0]
    before = changed.add_image("before")
    await_holders(running, {before: {changed.uuid}})
    changed.kill9()
    assert changed.layout is not None
    remove_image(changed.layout, "before")
    after = changed.add_image("after")
    changed.start()
    await_one_state(running)
    await_holders(running, {after: {changed.uuid}})


def test_all_agents_restarted_at_once_show_the_same_state_again(
    open_agents: OpenAgents,
) -> None:
    agents = open_agents(4)
    running = agents.start_all(agents.lan.hosts, engine="oci")
    images = {agent.add_image("own"): {agent.uuid} for agent in running}
    await_holders(running, images)
    for agent in running:
        agent.ask_to_stop()
    assert [agent.await_end() for agent in running] == [0, 0, 0, 0]
    for agent in running:
        agent.launch()
    for agent in running:
        agent.await_ready()
    await_one_state(running)
    await_holders(running, images)
