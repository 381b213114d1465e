"""Flash crowds: many hosts want one image at the same moment, and not all of them are well."""

from random import Random
from typing import Final

from msgspec import Struct

from beiran.errors import SettingsError
from simulations.kernel.chance import stream
from simulations.swarm.operations import At, Come, Flip, Forge, Kill, Leave, Operation, Slow
from simulations.swarm.scenario import Crowd

LATE_TIMES: Final = 1.5
"""Late hosts come within this many times the time that one host alone would need."""
SLOW_SHARE: Final = 0.1
"""Share of its link that a slow host sends with."""


class Shares(Struct, frozen=True, kw_only=True):
    """Shares of the hosts that are not plain, 0 to 1; a host is one of these at most.

    Attributes:
      late: want the image at some time of the pull.
      slow: send with ``SLOW_SHARE`` of their link.
      liars: flip bytes. forgers: flip bytes, and announce hashes that fit them.
      leavers: leave in good order while they pull. killed: are killed.
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
    """Return a crowd of ``nodes``; the seed decides which are late, slow, … and when.

    Raises: SettingsError for numbers out of range.
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
    operations: list[At[Operation]] = []
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


def _befalls(name: str, host: int, random: Random, alone_s: float, rate: float) -> At[Operation]:
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
        case "killed":
            operation, start_s = Kill(host), random.uniform(0.0, alone_s)
        case _:
            raise AssertionError(f"no operation makes a host {name}")
    return At(round(start_s, 3), operation)
