"""A mapping over another that is shared and never changed: what differs is kept on top.

An agent has one picture and keeps it in plain dicts. A simulation of ten thousand has as many
pictures that are nearly the same; each is then a thin layer over the one they have in common.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
_MISSING: object = object()
_GONE: object = object()


class Layered(MutableMapping[K, V]):
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
