"""The terms of a plan's formulas. ``beiran plan`` and the fits of the simulations share them."""

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
"""Below about 30 nodes each pair exchanges packets often enough that ARP entries stay fresh."""

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
    """Evaluate a fitted formula: the sum of terms times coefficients, 0 at least."""
    return max(0.0, sum(factor * TERMS[name](fleet) for name, factor in coefficients.items()))
