"""The world of ``simulations/swarm``, by its former name."""

from simulations.swarm.host import Host
from simulations.swarm.image import Blob, image
from simulations.swarm.world import MBIT, World

__all__ = ["MBIT", "Blob", "Host", "World", "image"]
