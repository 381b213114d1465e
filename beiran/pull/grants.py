"""What the origins grant to this host: what the mirror may serve while they are up.

An image of a private repository may well lie in the cache, or with a peer that was granted it.
While its origin can be asked, the mirror serves it only after the origin has granted the manifest
to this host's credentials; with the manifest everything that it names is granted. Sans-IO: the
clock is the caller's, and any that only goes forward will do.
"""

from collections.abc import Iterable
from typing import Final

from beiran.ids import Digest
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import ImageManifest, Index

GRANT_TTL_S: Final = 3600.0
"""Longer than a pull asks for blobs after its manifest; then the origin is asked again."""

GRANTS_MAX: Final = 16_384
"""Some hundred images; about 4 MB."""


class Grants:
    """Which digests of which repositories were granted, and until when. In memory, bounded.

    A grant that is not there is no refusal: the origin is to be asked.
    """

    def __init__(self, *, ttl_s: float = GRANT_TTL_S, grants_max: int = GRANTS_MAX) -> None:
        if ttl_s <= 0 or grants_max < 1:
            raise ValueError("grants last for some time, and there is room for one")
        self._ttl_s: Final = ttl_s
        self._grants_max: Final = grants_max
        self._until: dict[tuple[RepositoryName, Digest], float] = {}
        """The soonest to end come first: all last equally long."""

    def __len__(self) -> int:
        return len(self._until)

    def grant(self, name: RepositoryName, digests: Iterable[Digest], *, now: float) -> None:
        """The origin has just granted these. The oldest grants make room for them."""
        for digest in digests:
            key = (name, digest)
            self._until.pop(key, None)
            self._until[key] = now + self._ttl_s
        self._drop_ended(now)
        while len(self._until) > self._grants_max:
            del self._until[next(iter(self._until))]

    def granted(self, name: RepositoryName, digest: Digest, *, now: float) -> bool:
        """Whether the origin granted this lately."""
        until = self._until.get((name, digest))
        return until is not None and now < until

    def revoke(self, name: RepositoryName) -> None:
        """The origin has just denied something of this repository: what it granted is in doubt."""
        for key in [key for key in self._until if key[0] == name]:
            del self._until[key]

    def _drop_ended(self, now: float) -> None:
        while self._until:
            first = next(iter(self._until))
            if now < self._until[first]:
                return
            del self._until[first]


def granted_with(digest: Digest, document: ImageManifest | Index) -> list[Digest]:
    """What is granted when the manifest or index ``document`` is: itself and all it names."""
    if isinstance(document, Index):
        return [digest, *(descriptor.raw for descriptor in document.manifests)]
    named = (document.config, *document.layers)
    return [digest, *(descriptor.raw for descriptor in named)]
