"""Who holds what: each owner's holdings as a versioned map, after Scuttlebutt.

Invariant: the copy of an owner's holdings at version *v* is exactly what the owner held at its
version *v*. Four rules keep it:

- An owner is the only writer of its holdings, and gives each change a version of its own.
- A delta from ``since`` to ``version`` is applied only to a copy at a version from ``since`` to
  below ``version``: it leaves no gap. ``since`` 0 stands for any copy: the delta is everything.
- A release leaves a tombstone, so that a delta can be made for a copy that is behind. The oldest
  tombstones go, and the owner's *floor* rises past them: a copy below it is sent everything.
- At each start an owner's version jumps to the wall clock's milliseconds at least, and past any
  later version that peers know, so that no version ever stands for two states, also where a
  database was lost, is an old copy, or lags behind after a power failure.

Source: van Renesse and others, "Efficient Reconciliation and Flow Control for Anti-Entropy
Protocols" (2008); the floor is chitchat's ``last_gc_version``.
"""

from collections.abc import Iterable, Iterator, MutableMapping, Sequence

from msgspec import Struct, field

from beiran.gossip.messages import Delta, Held
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding


class OwnerLog(Struct):
    """A copy of one owner's holdings.

    ``Possession`` replaces a log by a changed copy: a log that was read stays as it is.

    Attributes:
      version: of the last change applied; 0 if nothing is known yet.
      floor: a copy below this version must be sent everything.
      held: by image, with the version of the last change.
      released: tombstones, the oldest first.
    """

    version: int = 0
    floor: int = 0
    held: dict[Digest, tuple[int, Holding]] = field(default_factory=dict)
    released: dict[Digest, int] = field(default_factory=dict)


class Change(Struct, frozen=True):
    """The changes that a delta made to a copy."""

    held: tuple[Holding, ...]
    released: tuple[Digest, ...]
    reset: bool


class Possession:
    """All owners' holdings, this node's own among them.

    Args:
      logs: by owner. holders: by image, how many owners hold it.
      tombstones_max: kept per owner; an owner that releases more sends everything to late copies.

    Attributes:
      tombstones_most: the largest number that was ever kept of one owner.
    """

    def __init__(
        self,
        logs: MutableMapping[NodeId, OwnerLog],
        holders: MutableMapping[Digest, int],
        *,
        tombstones_max: int = 0,
    ) -> None:
        self._tombstones_max = tombstones_max
        self.tombstones_most = 0
        self._logs = logs
        self._holders = holders

    def version(self, owner: NodeId) -> int:
        """The version of an owner's holdings that is known here; 0 if none."""
        log = self._logs.get(owner)
        return log.version if log else 0

    def holdings(self, owner: NodeId) -> list[Holding]:
        """An owner's holdings in this node's copy."""
        log = self._logs.get(owner)
        return [holding for _, holding in log.held.values()] if log else []

    def holders(self, image: Digest) -> list[NodeId]:
        """The owners that hold an image, online or not."""
        return [owner for owner, log in self._logs.items() if image in log.held]

    def held_by_others(self, owner: NodeId) -> Iterator[tuple[Digest, NodeId]]:
        """Every image that another than ``owner`` holds, with each owner that does."""
        for other, log in self._logs.items():
            if other != owner:
                for image in log.held:
                    yield image, other

    def is_held(self, image: Digest) -> bool:
        """Whether any known owner holds an image."""
        return image in self._holders

    def restore(self, owner: NodeId, version: int, holdings: Iterable[Holding]) -> None:
        """Take over what an earlier life of this node knew of an owner."""
        log = self._logs[owner] = OwnerLog(version=version, floor=version)
        for holding in holdings:
            self._put(log, holding, version)

    def images(self) -> Iterator[Digest]:
        """Every image that any owner holds."""
        return iter(self._holders)

    def begin(self, owner: NodeId, version: int) -> None:
        """Let an owner's log go on at ``version``: older copies are sent everything."""
        if version > self.version(owner):
            log = self._changing(owner)
            log.version = log.floor = version

    def change(
        self, owner: NodeId, held: Sequence[Holding], released: Sequence[Digest]
    ) -> list[Delta]:
        """Change this node's own holdings, one version a change. Returns a delta for each."""
        log = self._changing(owner)
        deltas = []
        for holding in held:
            known = log.held.get(holding.image)
            if known is not None and known[1] == holding:
                continue
            log.version += 1
            self._put(log, holding, log.version)
            deltas.append(Delta(owner, log.version - 1, log.version, (_held(holding),)))
        for image in released:
            if image not in log.held:
                continue
            log.version += 1
            self._release(log, image, log.version)
            deltas.append(Delta(owner, log.version - 1, log.version, (), (image,)))
        return deltas

    def delta_since(self, owner: NodeId, since: int) -> Delta | None:
        """The delta that brings a copy at version ``since`` up to this one; None if none is due."""
        log = self._logs.get(owner)
        if log is None or log.version <= since:
            return None
        if since < log.floor:
            everything = tuple(_held(holding) for _, holding in log.held.values())
            return Delta(owner, 0, log.version, everything)
        held = tuple(_held(holding) for at, holding in log.held.values() if at > since)
        released = tuple(image for image, at in log.released.items() if at > since)
        return Delta(owner, since, log.version, held, released)

    def apply(self, delta: Delta) -> Change | None:
        """Apply a delta. Returns what it changed, or None if it is old or leaves a gap."""
        reset = delta.since == 0
        known = self.version(delta.owner)
        if delta.version <= known or (not reset and known < delta.since):
            return None
        log = self._changing(delta.owner)
        now_held = {held.image for held in delta.held}
        released = dict.fromkeys(log.held if reset else delta.released)
        tombstones = [image for image in released if image not in now_held]
        gone = [image for image in tombstones if image in log.held]
        if reset:
            log.released.clear()
            log.floor = delta.version
        changed = []
        for held in delta.held:
            holding = Holding(held.image, held.tags, held.digests)
            before = log.held.get(held.image)
            if reset or before is None or before[1] != holding:  # a reset lists all
                changed.append(holding)
            self._put(log, holding, delta.version)
        for image in tombstones:  # also of what was never known here: a later copy may have it
            self._release(log, image, delta.version)
        log.version = delta.version
        return Change(tuple(changed), tuple(gone), reset)

    def is_gap(self, delta: Delta) -> bool:
        """Whether a delta is new here but cannot be applied: something before it is missing."""
        return delta.since > self.version(delta.owner)

    def forget(self, owner: NodeId) -> list[Digest]:
        """Keep nothing of an owner. Returns the images it held."""
        log = self._logs.pop(owner, None)
        if log is None:
            return []
        images = list(log.held)
        for image in images:
            self._count(image, -1)
        return images

    def _changing(self, owner: NodeId) -> OwnerLog:
        """A copy of the log of ``owner`` in its place, to be changed."""
        log = self._logs.get(owner) or OwnerLog()
        copy = OwnerLog(log.version, log.floor, dict(log.held), dict(log.released))
        self._logs[owner] = copy
        return copy

    def _put(self, log: OwnerLog, holding: Holding, version: int) -> None:
        if holding.image not in log.held:
            self._count(holding.image, +1)
        log.held[holding.image] = (version, holding)
        log.released.pop(holding.image, None)

    def _release(self, log: OwnerLog, image: Digest, version: int) -> None:
        if log.held.pop(image, None) is not None:
            self._count(image, -1)
        log.released.pop(image, None)  # so that the oldest tombstones stay first
        log.released[image] = version
        while len(log.released) > self._tombstones_max:
            oldest = next(iter(log.released))
            log.floor = max(log.floor, log.released.pop(oldest))
        self.tombstones_most = max(self.tombstones_most, len(log.released))

    def _count(self, image: Digest, by: int) -> None:
        count = self._holders.get(image, 0) + by
        if count:
            self._holders[image] = count
        else:
            self._holders.pop(image, None)


def _held(holding: Holding) -> Held:
    return Held(holding.image, holding.tags, holding.digests)
