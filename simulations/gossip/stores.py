"""Real databases beside some hosts: the effects of their cores are written, and compared.

Such a host restarts from what its database gives back, as an agent does. The others restart from
what their core knew.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from beiran.gossip.effects import Effect
from beiran.gossip.tables import Remembered
from beiran.store.restore import Restored
from beiran.store.store import Store
from simulations.gossip.host import CLUSTER, Disk, Host
from simulations.gossip.world import World

AT: Final = "2027-01-01T00:00:00.000Z"
"""The time in all rows: virtual time has no date, and a trace must not depend on today's."""
BATCH_MIN: Final = 256  # effects per transaction, as an agent's recorder gathers under load


@contextmanager
def open_stores(world: World, numbers: Sequence[int]) -> "Iterator[Stores]":
    """Give the hosts with these numbers databases, in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="beiran-simulation-") as folder:
        stores = Stores(world, numbers, Path(folder))
        if numbers:
            world.found.append(stores.found)
            world.save = stores.save
            world.rescue = stores.rescue
        try:
            yield stores
        finally:
            stores.close()


class Stores:
    """The databases of one world."""

    def __init__(self, world: World, numbers: Sequence[int], folder: Path) -> None:
        self._world = world
        self._numbers = frozenset(numbers)
        self._folder = folder
        self._stores: dict[int, Store] = {}
        self._lives: dict[int, int] = {}
        self._pending: dict[int, list[Effect]] = {}
        self._added_at: dict[int, float] = {}

    def close(self) -> None:
        """Close all databases."""
        for store in self._stores.values():
            store.close()

    def differences(self) -> list[str]:
        """Return where the database of a running host differs from its core."""
        texts = []
        for host in self._world.online():
            if host.number in self._numbers and not host.clone:
                texts += _differences(host, self._restored(host))
        return texts

    def found(self, host: Host, effect: Effect) -> None:
        """Keep an effect for the next transaction."""
        if host.number in self._numbers:
            if self._lives.get(host.number) != host.life:
                self._begin_life(host)
            # The effects of one input are one batch, as for an agent's recorder.
            full = len(self._pending.get(host.number, ())) >= BATCH_MIN
            if full and self._world.now > self._added_at.get(host.number, 0.0):
                self._flush(host)
            self._pending.setdefault(host.number, []).append(effect)
            self._added_at[host.number] = self._world.now

    def save(self, host: Host) -> Disk:
        """Return what the database gives back after a kill."""
        if host.number not in self._numbers or host.clone:
            return host.remember()
        restored = self._restored(host)
        return Disk(
            generation=host.node.own.generation,
            version=restored.version,
            holdings=restored.holdings,
            remembered=tuple(Remembered(m.member, m.version, m.holdings) for m in restored.members),
            descriptions=restored.descriptions,
        )

    def rescue(self, host: Host) -> Disk:
        """Return what the database gives back after a power failure; here it loses nothing."""
        return self.save(host) if host.number in self._numbers else host.rescue()

    def _begin_life(self, host: Host) -> None:
        """Open the database of a new process; one that was wiped or never saved is made anew."""
        self._lives[host.number] = host.life
        self._pending[host.number] = []
        saved = self._stores.get(host.number)
        if saved is not None and host.disk_kept:
            saved.begin_life(host.node.own.generation)
            return
        if saved is not None:
            saved.close()
        path = self._folder / f"{host.number}-{host.life}.db"
        store = Store.open(str(path), node=host.id, cluster=CLUSTER, name=host.name)
        store.begin_life(host.node.own.generation)
        self._stores[host.number] = store

    def _restored(self, host: Host) -> Restored:
        if self._lives.get(host.number) != host.life:
            self._begin_life(host)
        self._flush(host)
        return self._stores[host.number].restore()

    def _flush(self, host: Host) -> None:
        pending, self._pending[host.number] = self._pending.get(host.number, []), []
        if pending:
            self._stores[host.number].apply(pending, AT)


def _differences(host: Host, restored: Restored) -> list[str]:
    node = host.node
    texts = []
    rows = {row.member.node: row for row in restored.members}
    for member in node.members.all():
        if member.node == host.id:
            continue
        row = rows.pop(member.node, None)
        held = {h.image: h for h in node.possession.holdings(member.node)}
        if row is None or row.member != member:
            known = row.member if row is not None else None
            texts.append(f"{host.name}'s database has {known} for {member}")
        elif {h.image: h for h in row.holdings} != held:
            texts.append(f"{host.name}'s database has other images of {member.name}")
        elif row.version != node.possession.version(member.node):
            texts.append(f"{host.name}'s database has {member.name} at version {row.version}")
    remembered = node.members.remembered
    texts += [
        f"{host.name}'s database has {row.member.name}, which its core does not know"
        for row in rows.values()
        if row.member.node not in remembered
    ]
    if {h.image: h for h in restored.holdings} != host.engine:
        texts.append(f"{host.name}'s database has other images than its engine")
    described = {known.image: known for known in restored.descriptions}
    for image in node.descriptions.images():  # the database may keep more than the core
        if described.get(image) != node.descriptions.get(image):
            texts.append(f"{host.name}'s database describes {image.hex()} otherwise")
    return texts
