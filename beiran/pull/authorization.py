"""What the origins grant to this host: what the mirror may serve while they answer.

A private image may lie in the cache, or with a peer whose host was granted it. While its origin
answers, the mirror serves it only after the origin has granted the manifest to this host's
credentials; that grants everything that the manifest names, for ``GRANT_TTL_S``. While the origin
does not answer, peers may give it if the operator allows that (``offline_tags``), and for
``OFFLINE_GRANT_S`` the origin is not asked again. ``docs/explanation/pull.md`` has the rules.
"""

import math
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

import trio
from cachetools import TTLCache

from beiran.ids import Digest, digest_text
from beiran.mirror.backend import RepositoryName, Source
from beiran.mirror.errors import BlobUnknown, Denied, ManifestUnknown, mirror_error
from beiran.oci.manifests import MANIFEST_TYPES, ImageManifest, Index
from beiran.pull.tags import ORIGIN_PATIENCE_S
from beiran.registry.errors import OriginDenied, OriginError, OriginMissing
from beiran.registry.registry_client import OriginClient

GRANT_TTL_S: Final = 3600.0
"""Longer than an engine asks for blobs after their manifest; then the origin is asked again.
Chosen, not measured."""

GRANTS_MAX: Final = 16_384
"""Some 500 images of 30 blobs; about 4 MB."""

OFFLINE_GRANT_S: Final = 60.0
"""How soon the origin is asked again after it did not answer. Chosen: an origin that comes back and
denies the image is heeded within a minute."""


class Provenance(Enum):
    """Who says that an image is what its name or digest names."""

    REGISTRY = "the origin grants it now, or has within GRANT_TTL_S"
    REGISTRY_OFFLINE = "the origin has it, but does not answer now"
    BUILT = "the origin answers and has none; nodes built it under this name, or loaded it"
    NODE = "only nodes know it by this name, and the origin does not answer or was not asked"

    @property
    def source(self) -> Source:
        """Who stated that the name means this digest: a header of the mirror's answers."""
        return "origin" if self is Provenance.REGISTRY else "peers"

    @property
    def is_in_registry(self) -> bool:
        """Whether the origin has its blobs, though it may not answer now."""
        return self in (Provenance.REGISTRY, Provenance.REGISTRY_OFFLINE)

    @property
    def is_vouched(self) -> bool:
        """Whether the origin answered, with whatever answer."""
        return self in (Provenance.REGISTRY, Provenance.BUILT)


class Grants:
    """Which digests of which repositories are granted. In memory and bounded: the oldest go first.

    A grant that is missing is no refusal: the origin is to be asked.

    Args:
      clock: seconds that only go forward.
    """

    def __init__(
        self,
        *,
        ttl_s: float = GRANT_TTL_S,
        grants_max: int = GRANTS_MAX,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        if ttl_s <= 0 or grants_max < 1:
            raise ValueError("grants need a positive time to live and room for one")
        self._granted: TTLCache[tuple[RepositoryName, Digest], None] = TTLCache(
            grants_max, ttl_s, timer=clock
        )

    def __len__(self) -> int:
        return len(self._granted)

    def grant(self, name: RepositoryName, digests: Iterable[Digest]) -> None:
        """The origin granted these now."""
        for digest in digests:
            self._granted[name, digest] = None

    def granted(self, name: RepositoryName, digest: Digest) -> bool:
        """Whether the origin granted this within the time to live."""
        return (name, digest) in self._granted

    def revoke(self, name: RepositoryName) -> None:
        """The origin denied something of this repository: nothing of it counts as granted."""
        for key in [key for key in self._granted if key[0] == name]:
            self._granted.pop(key, None)


def granted_with(digest: Digest, document: ImageManifest | Index) -> list[Digest]:
    """What is granted together with the manifest or index ``document``: itself and all it names."""
    if isinstance(document, Index):
        return [digest, *(descriptor.raw for descriptor in document.manifests)]
    named = (document.config, *document.layers)
    return [digest, *(descriptor.raw for descriptor in named)]


class Authorization:
    """Asks origins, and remembers what they grant.

    Args:
      offline_allowed: whether peers may give an image while its origin does not answer.
    """

    def __init__(self, origins: OriginClient, *, offline_allowed: bool) -> None:
        self._origins: Final = origins
        self._offline_allowed: Final = offline_allowed
        self._grants: Final = Grants()
        self._offline_grants: Final = Grants(ttl_s=OFFLINE_GRANT_S)

    def note(
        self,
        name: RepositoryName,
        digest: Digest,
        document: ImageManifest | Index,
        provenance: Provenance,
    ) -> None:
        """A manifest is served, and with it all that it names may be."""
        grants = self._grants if provenance.is_vouched else self._offline_grants
        grants.grant(name, granted_with(digest, document))

    async def check(
        self,
        name: RepositoryName,
        digest: Digest,
        unknown: type[ManifestUnknown | BlobUnknown],
        *,
        at_hand: bool,
    ) -> Provenance:
        """Ask the origin whether this host may have a digest, unless it said so before.

        Args:
          unknown: which of the two kinds it is.
          at_hand: this node or a peer has it. Then the origin gets ``ORIGIN_PATIENCE_S`` to deny
            it; otherwise as long as it takes.

        Returns: REGISTRY, or REGISTRY_OFFLINE when the origin does not answer.
        Raises: MirrorError when the origin denies it or does not have it.
        """
        if self._grants.granted(name, digest):
            return Provenance.REGISTRY
        if self._offline_grants.granted(name, digest):
            return Provenance.REGISTRY_OFFLINE
        patience_s = ORIGIN_PATIENCE_S if at_hand and self._offline_allowed else math.inf
        try:
            with trio.fail_after(patience_s):
                await self._ask(name, digest, unknown)
        except (OriginMissing, OriginDenied) as error:
            failure = mirror_error(error, unknown)
            if isinstance(failure, Denied):
                self._grants.revoke(name)
            raise failure from error
        except OriginError as error:
            if not self._offline_allowed:
                raise mirror_error(error, unknown) from error
            return Provenance.REGISTRY_OFFLINE
        except trio.TooSlowError:
            return Provenance.REGISTRY_OFFLINE
        self._grants.grant(name, [digest])
        return Provenance.REGISTRY

    async def _ask(
        self, name: RepositoryName, digest: Digest, unknown: type[ManifestUnknown | BlobUnknown]
    ) -> None:
        if unknown is ManifestUnknown:
            await self._origins.head_manifest(
                name.registry, name.repository, digest_text(digest), accept=MANIFEST_TYPES
            )
        else:
            await self._origins.blob_size(name.registry, name.repository, digest)
