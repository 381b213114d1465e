"""``python -m tests.swarm.table``: how near to the bound cold pulls are, in virtual time."""

import argparse
import time

from beiran.swarm.config import SwarmConfig
from simulations.swarm.blobs import image
from simulations.swarm.bound import fluid_bound_s
from simulations.swarm.host import Host
from simulations.swarm.world import MBIT, World

IMAGE_BYTES = 200_000_000
RATE = 50 * MBIT


def cold_pull(
    count: int,
    seed: int,
    config: SwarmConfig | None = None,
    *,
    updates_max: int = 24,
    loss: float = 0.0,
) -> tuple[World, list[Host], float]:
    world = World(seed, config=config, updates_max=updates_max, loss=loss)
    blobs = image(6, IMAGE_BYTES)
    world.publish(blobs)
    hosts = world.add_many(count)
    for host in hosts:
        world.pull(host, blobs)
    took_s = world.run_until(world.pulled(hosts, blobs), within_s=600)
    return world, hosts, took_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", nargs="*", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--set", nargs="*", default=[], help="settings, as name=value")
    arguments = parser.parse_args()
    settings = dict(pair.split("=") for pair in arguments.set)
    values = {
        name: type(getattr(SwarmConfig(), name))(float(value)) for name, value in settings.items()
    }
    config = SwarmConfig(**values)
    print(
        "hosts  seed  time/s  /bound  first/bound  origin/F  wasted/F"
        "  datagrams/host/s  busy/piece  wall/s"
    )
    for count in arguments.counts:
        for seed in range(1, arguments.seeds + 1):
            begun = time.perf_counter()
            world, hosts, took_s = cold_pull(count, seed, config, updates_max=arguments.updates)
            bound = fluid_bound_s(IMAGE_BYTES, RATE, [RATE] * count, [RATE] * count)
            first_s = min(max(h.done_at.values()) for h in hosts) - 1000.0
            wasted = sum(
                p.wasted_bytes for h in hosts for d in h.sizes if (p := h.node.progress(d))
            )
            busy = sum(h.node.counters["fetches_failed_busy"] for h in hosts)
            pieces = sum(len(h.accepted) for h in hosts)
            print(
                f"{count:5} {seed:5} {took_s:7.2f} {took_s / bound:7.3f} {first_s / bound:12.3f}"
                f" {world.origin.sent_bytes / IMAGE_BYTES:9.4f} {wasted / IMAGE_BYTES / count:9.4f}"
                f" {world.datagrams_sent / count / took_s:17.1f} {busy / pieces:11.2f}"
                f" {time.perf_counter() - begun:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
