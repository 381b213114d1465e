"""What the figures of a plan depend on: shared by ``beiran plan`` and the fits it uses."""

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple


class Fleet(NamedTuple):
    """A fleet.

    Attributes:
      nodes: hosts with an agent.
      images: on each node.
      different: images there are in the whole fleet.
      layers: of an image.
    """

    nodes: int
    images: int
    different: int
    layers: int


SMALL_NODES: Final = 30
"""In clusters about as small, each pair speaks often enough for its kernels to need no ARP."""

TERMS: Final[Mapping[str, Callable[[Fleet], float]]] = {
    "one": lambda fleet: 1.0,
    "nodes": lambda fleet: float(fleet.nodes),
    "log_nodes": lambda fleet: math.log10(fleet.nodes),
    "small": lambda fleet: (fleet.nodes + SMALL_NODES) ** -1.5,
    "layers": lambda fleet: float(fleet.layers),
    "many_layers": lambda fleet: float(fleet.layers**2),
    "holdings": lambda fleet: float(fleet.nodes * fleet.images),
    "described_layers": lambda fleet: float(fleet.different * fleet.layers),
}


def value(fleet: Fleet, coefficients: Mapping[str, float]) -> float:
    """A fitted figure of a fleet: its terms, each times its coefficient. Never below 0."""
    return max(0.0, sum(factor * TERMS[name](fleet) for name, factor in coefficients.items()))
