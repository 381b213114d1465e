"""The size of one node's state of a fleet: in the agent's memory, and in its database.

Both are measured on the real tables of the core and the real rows of the store. Two holdings of one
image share no object, as when each was read from its own packet.
"""

import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from beiran.gossip.effects import Effect, HoldingsChanged, ImageDescribed, MemberChanged
from beiran.gossip.membership.member import Member, Status
from beiran.ids import NodeId
from beiran.oci.images import Holding
from beiran.store.store import Store
from simulations.gossip.images import description, digest, holding
from simulations.gossip.overlay import CommonState
from simulations.kernel.host import address_of

VERSION: Final = 1_800_000_000_000
GENERATION: Final = 1_800_000_000
AT: Final = "2027-01-01T00:00:00.000Z"
EFFECTS_AT_ONCE: Final = 500


def memory_bytes(owners: Sequence[Sequence[str]], layers: int) -> int:
    """Return the bytes of a core's state, without those of the process itself.

    Args:
      owners: the images of each node, by name.
      layers: of each image.
    """
    descriptions = {name: None for names in owners for name in names}
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    state = CommonState.of(_owners(owners), [description(name, layers) for name in descriptions])
    after = tracemalloc.get_traced_memory()[0]
    del state
    if not tracing:
        tracemalloc.stop()
    return after - before


def database_bytes(owners: Sequence[Sequence[str]], layers: int) -> int:
    """Return the bytes of the database file, closed."""
    with tempfile.TemporaryDirectory(prefix="beiran-weights-") as folder:
        path = Path(folder) / "beiran.db"
        node = _member(0).node
        store = Store.open(str(path), node=node, cluster="default", name="host-0")
        try:
            store.begin_life(GENERATION)
            effects: list[Effect] = []
            for effect in _effects(owners, layers):
                effects.append(effect)
                if len(effects) >= EFFECTS_AT_ONCE:
                    store.apply(effects, AT)
                    effects = []
            store.apply(effects, AT)
        finally:
            store.close()
        return sum(file.stat().st_size for file in Path(folder).iterdir())


def _owners(owners: Sequence[Sequence[str]]) -> Iterator[tuple[Member, int, list[Holding]]]:
    for number, names in enumerate(owners):
        yield _member(number), VERSION + number, [holding(name) for name in names]


def _effects(owners: Sequence[Sequence[str]], layers: int) -> Iterator[Effect]:
    described: set[str] = set()
    for member, version, held in _owners(owners):
        yield MemberChanged(member, None)
        yield HoldingsChanged(member.node, version, tuple(held), (), True)
    for names in owners:
        for name in names:
            if name not in described:
                described.add(name)
                yield ImageDescribed(description(name, layers))


def _member(number: int) -> Member:
    node = NodeId(bytes(digest(f"node {number}"))[:16])
    return Member(node, f"host-{number}", address_of(number), GENERATION, 0, Status.ALIVE)
