"""Any mishaps in any order: each blob ends whole, or stuck where no source is left."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulations.swarm.blobs import image
from simulations.swarm.world import World

MISHAPS = ["kill", "silence", "drop", "late", "slow", "origin", "spoil", "seed"]


def play(seed: int, mishaps: list[tuple[str, int]], loss: float, *, refused: int) -> World:
    """Six hosts pull one image while mishaps befall them; it must end well for the others."""
    random = Random(seed)
    world = World(seed, loss=loss, jitter_s=0.02, duplication=loss)
    blobs = image(3, 12_000_000)
    world.publish(blobs)
    hosts = world.add_many(6)
    world.origin.refused = {host.id for host in hosts[:refused]}
    given_up: set[str] = set()
    for host in hosts:
        world.schedule(
            world.now + random.random() * 0.5,
            lambda h=host: world.pull(h, blobs),
        )
    for kind, which in mishaps:
        world.run(random.random())
        host = hosts[which % len(hosts)]
        if not host.online:
            continue
        match kind:
            case "kill" if sum(h.online for h in hosts) > 2:
                world.kill(host)
            case "silence" if sum(h.online for h in hosts) > 2:
                world.unplug(host)
            case "drop":
                given_up.add(host.name)
                for blob in blobs:
                    world.do(host, host.node.drop(blob.digest, now=world.now))
            case "late":
                late = world.add()
                hosts.append(late)
                world.update_members()
                world.pull(late, blobs)
            case "slow":
                world.limit_uplink(host, 10_000)
            case "origin":
                world.origin.up = False
                world.schedule(world.now + 2.0, lambda: setattr(world.origin, "up", True))
            case "spoil":
                host.spoils = True
            case "seed":
                world.seed_blobs(host, blobs)
            case _:
                pass
    world.run(1.0)
    well = [h for h in hosts if h.online and h.name not in given_up]
    for host in well:
        for blob in blobs:
            if blob.digest not in host.sizes:
                world.pull(host, blobs)
    world.run(150)
    for host in well:
        for blob in blobs:
            done, stuck = blob.digest in host.done_at, blob.digest in host.stuck
            if host.id in world.origin.refused:
                assert done or stuck, f"{host.name} waits for ever for {blob.name}"
            else:
                assert done, f"{host.name} lacks {blob.name}: {host.stuck}"
    assert world.wrong_accepted == 0
    return world


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from(MISHAPS), st.integers(0, 20)), max_size=6),
    st.sampled_from([0.0, 0.05, 0.2]),
    st.sampled_from([0, 0, 2]),
)
def test_every_healthy_node_gets_every_blob(
    seed: int, mishaps: list[tuple[str, int]], loss: float, refused: int
) -> None:
    play(seed, mishaps, loss, refused=refused)


@pytest.mark.parametrize("seed", range(6))
def test_without_mishaps_the_origin_gives_each_byte_once(seed: int) -> None:
    world = play(seed, [], 0.0, refused=0)
    assert world.origin.sent_bytes <= 1.02 * 12_000_000
