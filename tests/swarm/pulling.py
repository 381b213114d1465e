"""Simulated hosts that pull one image at the same moment."""

from simulations.swarm.blobs import Blob, image
from simulations.swarm.host import Host
from simulations.swarm.world import MBIT, World

IMAGE_BYTES = 24_000_000
IMAGE = image(2, IMAGE_BYTES)
ALONE_S = IMAGE_BYTES / (50 * MBIT)
BIG = [Blob("big", 100_000_000)]


def crowd(world: World, count: int, blobs: list[Blob] = IMAGE) -> list[Host]:
    """All pull at the same moment."""
    world.publish(blobs)
    hosts = world.add_many(count)
    for host in hosts:
        world.pull(host, blobs)
    return hosts


def from_origin(world: World, blobs: list[Blob] = IMAGE) -> float:
    """What the origin sent, in copies of the image."""
    return world.origin.sent_bytes / sum(blob.size_bytes for blob in blobs)
