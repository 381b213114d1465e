"""Shares the state of thousands of cores in one process: a common base, and a thin layer for each.

An agent keeps what it knows in plain dicts. Ten thousand cores that each had tables of their own
would take tens of gigabytes, and hours to come together. A core that is handed
``CommonState.tables()`` behaves as one that has come to know it all by itself, long ago.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Self, TypeVar, overload

from msgspec import Struct

from beiran.gossip.membership.member import Member
from beiran.gossip.possession.owner_log import OwnerLog
from beiran.gossip.possession.state_hash import STATE_HASH_MODULUS, entry_hash
from beiran.gossip.tables import Tables
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
_MISSING: object = object()
_GONE: object = object()


class Overlay(MutableMapping[K, V]):
    """Behaves as ``dict(base)`` would, in its order too; ``base`` must not change any more."""

    __slots__ = ("_added", "_base", "_gone", "_over")

    def __init__(self, base: Mapping[K, V]) -> None:
        self._base = base
        self._over: dict[K, object] = {}  # values that differ from the base's, or _GONE
        self._gone: dict[K, None] = {}  # keys that lost their place in the base
        self._added: dict[K, None] = {}  # keys after all of the base's

    def __getitem__(self, key: K) -> V:
        value = self._over.get(key, _MISSING)
        if value is _GONE:
            raise KeyError(key)
        return self._base[key] if value is _MISSING else value  # type: ignore[return-value]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D, /) -> V | D: ...
    def get(self, key: K, default: object = None, /) -> object:
        """The value of ``key``, or ``default``."""
        value = self._over.get(key, _MISSING)
        if value is _MISSING:
            return self._base.get(key, default)
        return default if value is _GONE else value

    def __contains__(self, key: object) -> bool:
        value = self._over.get(key, _MISSING)  # type: ignore[arg-type]
        return key in self._base if value is _MISSING else value is not _GONE

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self._base or key in self._gone:
            self._added[key] = None
        self._over[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._added.pop(key, None)
        if key in self._base:
            self._gone[key] = None
            self._over[key] = _GONE
        else:
            del self._over[key]

    def __iter__(self) -> Iterator[K]:
        gone = self._gone
        for key in self._base:
            if key not in gone:
                yield key
        yield from self._added

    def __len__(self) -> int:
        return len(self._base) - len(self._gone) + len(self._added)


class CommonState(Struct, frozen=True):
    """Which members are online and who holds what, as all see it. Nothing of it changes any more.

    Attributes: as in ``Tables``.
    """

    members: dict[NodeId, Member]
    versions: dict[NodeId, int]
    ring: tuple[NodeId, ...]
    logs: dict[NodeId, OwnerLog]
    holders: dict[Digest, int]
    descriptions: dict[Digest, ImageDescription]
    state_hash: int

    @classmethod
    def of(
        cls,
        owners: Iterable[tuple[Member, int, Sequence[Holding]]],
        descriptions: Iterable[ImageDescription],
    ) -> Self:
        """Put it together.

        Args:
          owners: members that are online, each with the version of its holdings and these.
          descriptions: of what they hold; others are left out.
        """
        members: dict[NodeId, Member] = {}
        versions: dict[NodeId, int] = {}
        holders: dict[Digest, int] = {}
        logs: dict[NodeId, OwnerLog] = {}
        state_hash = 0
        for member, version, holdings in owners:
            members[member.node] = member
            versions[member.node] = version
            held = {holding.image: (version, holding) for holding in holdings}
            logs[member.node] = OwnerLog(version, version, held)
            state_hash = (state_hash + entry_hash(member, version)) % STATE_HASH_MODULUS
            for holding in holdings:
                holders[holding.image] = holders.get(holding.image, 0) + 1
        return cls(
            members=members,
            versions=versions,
            ring=tuple(sorted(members)),
            logs=logs,
            holders=holders,
            descriptions={d.image: d for d in descriptions if d.image in holders},
            state_hash=state_hash,
        )

    def tables(self) -> Tables:
        """The tables of one core, over this."""
        return Tables(
            members=Overlay(self.members),
            versions=Overlay(self.versions),
            ring=self.ring,
            state_hash=self.state_hash,
            logs=Overlay(self.logs),
            holders=Overlay(self.holders),
            descriptions=Overlay(self.descriptions),
        )
