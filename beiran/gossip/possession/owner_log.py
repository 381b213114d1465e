"""Who holds what: each owner's holdings as a versioned map, after Scuttlebutt.

Invariant: what we keep of an owner is exactly what it held at the version we keep. An owner numbers
its changes; a delta says what changed between two versions and is applied only where it leaves no
gap. Releases leave tombstones, so that a delta can be made for whoever is behind; the oldest go,
and an owner's *floor* rises past them: who is below it is sent everything (a delta since 0).
Source: van Renesse and others, "Efficient Reconciliation and Flow Control for Anti-Entropy
Protocols" (2008); the floor is chitchat's ``last_gc_version``.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence

from msgspec import Struct, field

from beiran.gossip.layered import Layered
from beiran.gossip.messages import Delta, Held
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding


class OwnerLog(Struct):
    """One owner's holdings as we know them.

    Attributes:
      version: of the last change applied; 0 if we know nothing yet.
      floor: who knows less than this must be sent everything.
      held: by image, with the version of the last change.
      released: tombstones, the oldest first.
      common: others read this very log too; who changes it changes a copy.
    """

    version: int = 0
    floor: int = 0
    held: dict[Digest, tuple[int, Holding]] = field(default_factory=dict)
    released: dict[Digest, int] = field(default_factory=dict)
    common: bool = False


class Change(Struct, frozen=True):
    """What applying a delta has changed."""

    held: tuple[Holding, ...]
    released: tuple[Digest, ...]
    reset: bool


class Possession:
    """All owners' holdings, our own among them.

    Attributes:
      tombstones_most: that were ever kept of one owner; at most ``tombstones_max``.
    """

    def __init__(self, *, tombstones_max: int) -> None:
        self._tombstones_max = tombstones_max
        self.tombstones_most = 0
        self._logs: MutableMapping[NodeId, OwnerLog] = {}
        self._holders: MutableMapping[Digest, int] = {}

    def version(self, owner: NodeId) -> int:
        """The version we know of an owner's holdings; 0 if none."""
        log = self._logs.get(owner)
        return log.version if log else 0

    def holdings(self, owner: NodeId) -> list[Holding]:
        """What an owner holds, as we know it."""
        log = self._logs.get(owner)
        return [holding for _, holding in log.held.values()] if log else []

    def holders(self, image: Digest) -> list[NodeId]:
        """Who holds an image, online or not."""
        return [owner for owner, log in self._logs.items() if image in log.held]

    def held_by_others(self, owner: NodeId) -> Iterator[tuple[Digest, NodeId]]:
        """Every image that somebody else than ``owner`` holds, with each that does."""
        for other, log in self._logs.items():
            if other != owner:
                for image in log.held:
                    yield image, other

    def is_held(self, image: Digest) -> bool:
        """Whether anybody known to us holds an image."""
        return image in self._holders

    def restore(self, owner: NodeId, version: int, holdings: Iterable[Holding]) -> None:
        """Take over what an earlier life of ours knew of an owner."""
        log = OwnerLog(version=version, floor=version)
        self._logs[owner] = log
        for holding in holdings:
            self._put(log, holding, version)

    def share(self, logs: Mapping[NodeId, OwnerLog], holders: Mapping[Digest, int]) -> None:
        """Begin with logs that are ``common`` to many nodes. ``holders``: how many, by image."""
        self._logs, self._holders = Layered(logs), Layered(holders)

    def begin(self, owner: NodeId, version: int) -> None:
        """Start an owner's log at ``version``: whoever knows an older one is sent everything."""
        log = self._own_log(owner)
        if version > log.version:
            log.version = log.floor = version

    def change(
        self, owner: NodeId, held: Sequence[Holding], released: Sequence[Digest]
    ) -> list[Delta]:
        """Change our own holdings, one version a change. Returns a delta for each real change."""
        log = self._own_log(owner)
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
        """What brings somebody at version ``since`` up to what we know; None if nothing does."""
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
        log = self._own_log(delta.owner)
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
            if reset or before is None or before[1] != holding:  # a reset tells all there is
                changed.append(holding)
            self._put(log, holding, delta.version)
        for image in tombstones:  # what we never had another may have, who will ask us
            self._release(log, image, delta.version)
        log.version = delta.version
        return Change(tuple(changed), tuple(gone), reset)

    def is_gap(self, delta: Delta) -> bool:
        """Whether a delta is new to us but cannot be applied: something before it is missing."""
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

    def _own_log(self, owner: NodeId) -> OwnerLog:
        """The log of ``owner``, to be changed."""
        log = self._logs.get(owner)
        if log is None:
            log = self._logs[owner] = OwnerLog()
        elif log.common:
            copy = OwnerLog(log.version, log.floor, dict(log.held), dict(log.released))
            log = self._logs[owner] = copy
        return log

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
