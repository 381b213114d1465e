"""Real databases beside some hosts: what their cores find out is written, and compared.

Such a host restarts from what its database gives back, as an agent does; the others restart from
what the core knew.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from beiran.gossip.effects import Effect
from beiran.gossip.node import Remembered
from beiran.store.restore import Restored
from beiran.store.store import Store
from simulations.gossip.host import Disk, Host
from simulations.gossip.world import CLUSTER, World

AT: Final = "2027-01-01T00:00:00.000Z"
"""What all rows say: virtual time has no date, and a trace must not depend on today's."""
BATCH_MIN: Final = 256


class Stores:
    """The databases of one world.

    Args:
      numbers: of the hosts that have one.
    """

    def __init__(self, world: World, numbers: Sequence[int]) -> None:
        self._world = world
        self._numbers = frozenset(numbers)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stores: dict[int, Store] = {}
        self._lives: dict[int, int] = {}
        self._pending: dict[int, list[Effect]] = {}
        self._added_at: dict[int, float] = {}

    def __enter__(self) -> Self:
        if self._numbers:
            self._folder = tempfile.TemporaryDirectory(prefix="beiran-simulation-")
            self._world.found.append(self._found)
            self._world.save = self._save
            self._world.rescue = self._rescue
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for store in self._stores.values():
            store.close()
        if self._folder is not None:
            self._folder.cleanup()

    def differences(self) -> list[str]:
        """Where a database of a running host says other than its core."""
        texts = []
        for host in self._world.online():
            if host.number in self._numbers and not host.clone:
                texts += _differences(host, self._restored(host))
        return texts

    def _found(self, host: Host, effect: Effect) -> None:
        if host.number in self._numbers:
            if self._lives.get(host.number) != host.life:
                self._begin_life(host)
            # What one input led to is one batch, as it is for an agent's recorder.
            full = len(self._pending.get(host.number, ())) >= BATCH_MIN
            if full and self._world.now > self._added_at.get(host.number, 0.0):
                self._flush(host)
            self._pending.setdefault(host.number, []).append(effect)
            self._added_at[host.number] = self._world.now

    def _begin_life(self, host: Host) -> None:
        """A process opens its database. One that was lost (wiped, or never saved) is made anew."""
        self._lives[host.number] = host.life
        self._pending[host.number] = []
        saved = self._stores.get(host.number)
        if saved is not None and host.disk_kept:
            saved.begin_life(host.node.own.generation)
            return
        if saved is not None:
            saved.close()
        assert self._folder is not None
        path = Path(self._folder.name) / f"{host.number}-{host.life}.db"
        store = Store.open(str(path), node=host.id, cluster=CLUSTER, name=host.name)
        store.begin_life(host.node.own.generation)
        self._stores[host.number] = store

    def _save(self, host: Host) -> Disk:
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

    def _rescue(self, host: Host) -> Disk:
        return self._save(host) if host.number in self._numbers else host.rescue()

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
    remembered = {member.node for member in node.remembered}
    texts += [
        f"{host.name}'s database has {row.member.name}, whom its core does not know"
        for row in rows.values()
        if row.member.node not in remembered
    ]
    if {h.image: h for h in restored.holdings} != host.engine:
        texts.append(f"{host.name}'s database has other images than its engine")
    described = {known.image: known for known in restored.descriptions}
    for image in node.descriptions.images():  # it may keep one that the core must ask for again
        if described.get(image) != node.descriptions.get(image):
            texts.append(f"{host.name}'s database describes {image.hex()} otherwise")
    return texts
