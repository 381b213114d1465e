"""Flash crowds: thousands of hosts want one image at the same moment, and not all are well."""

from random import Random
from typing import Final

from msgspec import Struct

from beiran.errors import SettingsError
from simulations.kernel.chance import stream
from simulations.swarm.operations import At, Come, Flip, Forge, Kill, Leave, Operation, Slow
from simulations.swarm.scenario import Crowd

LATE_TIMES: Final = 1.5
"""Late comers come within so many times of what a host alone would need."""
SLOW_SHARE: Final = 0.1
"""Of a link: what slow hosts give."""


class Shares(Struct, frozen=True, kw_only=True):
    """Which share of the hosts is not plain, 0 to 1; one host is one of these at most.

    Attributes:
      late: come at some time of the pull. slow: give a tenth of what others give.
      liars: flip bytes; forgers: and announce hashes that fit them.
      leavers: end in good order while they pull. killed: end without a word.
    """

    late: float = 0.0
    slow: float = 0.0
    liars: float = 0.0
    forgers: float = 0.0
    leavers: float = 0.0
    killed: float = 0.0


def flash_crowd(
    nodes: int,
    image_bytes: int,
    shares: Shares,
    *,
    seed: int = 1,
    layers: int = Crowd.layers,
    link_bytes_per_s: float = Crowd.link_bytes_per_s,
    origin_bytes_per_s: float = Crowd.origin_bytes_per_s,
    loss: float = 0.0,
) -> Crowd:
    """A crowd of ``nodes``; who is late, slow, … and when is left to the seed.

    Raises: SettingsError for numbers of which there is no crowd.
    """
    counts = [getattr(shares, name) for name in shares.__struct_fields__]
    if any(share < 0 for share in counts) or sum(counts) > 1:
        raise SettingsError("the shares of hosts must be 0 to 1, and 1 together at most")
    if nodes < 1 or image_bytes < 0 or layers < 1 or not 0 <= loss < 1:
        raise SettingsError("nodes and layers must be at least 1, loss at least 0 and below 1")
    if link_bytes_per_s <= 0 or origin_bytes_per_s <= 0:
        raise SettingsError("rates must be positive")
    random = stream(seed, "flash crowd")
    alone_s = image_bytes / min(link_bytes_per_s, origin_bytes_per_s)
    numbers = list(range(nodes))
    random.shuffle(numbers)
    operations: list[At] = []
    for name, share in zip(shares.__struct_fields__, counts, strict=True):
        for _ in range(round(share * nodes)):
            if numbers:
                operations.append(_befalls(name, numbers.pop(), random, alone_s, link_bytes_per_s))
    return Crowd(
        seed=seed,
        nodes=nodes,
        image_bytes=image_bytes,
        layers=layers,
        link_bytes_per_s=link_bytes_per_s,
        origin_bytes_per_s=origin_bytes_per_s,
        loss=loss,
        operations=tuple(sorted(operations, key=lambda at: at.at_s)),
    )


def _befalls(name: str, host: int, random: Random, alone_s: float, rate: float) -> At:
    start_s = 0.0
    operation: Operation
    match name:
        case "late":
            operation, start_s = Come(host), random.uniform(0.0, LATE_TIMES * alone_s)
        case "slow":
            operation = Slow(host, SLOW_SHARE * rate)
        case "liars":
            operation = Flip(host)
        case "forgers":
            operation = Forge(host)
        case "leavers":
            operation, start_s = Leave(host), random.uniform(0.0, alone_s)
        case _:
            operation, start_s = Kill(host), random.uniform(0.0, alone_s)
    return At(round(start_s, 3), operation)
