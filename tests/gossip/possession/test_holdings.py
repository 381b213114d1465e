"""An owner's changes reach every member, however many names they have."""

from beiran.oci.images import Holding
from simulations.gossip.images import description, digest, holding
from simulations.gossip.world import World


def test_an_image_with_thousands_of_names_does_not_hold_up_others() -> None:
    world = World(seed=1)
    hosts = world.cluster(3)
    tags = tuple(f"app:build-{i}" for i in range(3000))
    images = [Holding(digest("a"), tags), Holding(digest("b"), ("x" * 600, "b:1")), holding("c")]
    world.hold_these(hosts[0], images, [description(name) for name in "abc"])
    world.run_until(world.converged, within_s=5)
    assert all(len(host.held(hosts[0].id)) == 3 for host in hosts)
    assert all(host.node.counters["bad_packets"] == 0 for host in hosts)
