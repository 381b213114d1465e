"""What this host may have of a repository: what its origin grants, or has granted lately.

While the origin does not answer, and that is allowed, peers may give it; for a short time that is
not asked again. ``docs/pull.md`` tells the rules.
"""

import math
from typing import Final

import trio

from beiran.ids import Digest, digest_text
from beiran.mirror.backend import BlobUnknown, Denied, ManifestUnknown, RepositoryName
from beiran.mirror.errors import as_library_error
from beiran.oci.manifests import MANIFEST_TYPES, ImageManifest, Index
from beiran.pull.grants import Grants, granted_with
from beiran.pull.tags import ORIGIN_PATIENCE_S
from beiran.registry.errors import OriginDenied, OriginError, OriginMissing
from beiran.registry.registry_client import OriginClient

OFFLINE_GRANT_S: Final = 60.0
"""How long what was served while an origin was away goes on without asking it again."""


class Permission:
    """Asks origins, and remembers what they grant.

    Args:
      offline_allowed: whether peers may give what an origin that is away cannot grant.
    """

    def __init__(self, origins: OriginClient, *, offline_allowed: bool) -> None:
        self._origins: Final = origins
        self._offline_allowed: Final = offline_allowed
        self._grants: Final = Grants()
        self._offline_grants: Final = Grants(ttl_s=OFFLINE_GRANT_S)

    def note(
        self, name: RepositoryName, digest: Digest, document: ImageManifest | Index, *, away: bool
    ) -> None:
        """A manifest was granted, and all that it names; or served while its origin is ``away``."""
        grants = self._offline_grants if away else self._grants
        grants.grant(name, granted_with(digest, document), now=trio.current_time())

    async def asked(
        self,
        name: RepositoryName,
        digest: Digest,
        unknown: type[ManifestUnknown | BlobUnknown],
        *,
        at_hand: bool,
    ) -> bool:
        """Whether the origin grants this; False while it is away, and then peers may give it.

        Args:
          at_hand: others have it, or we: then the origin has only so long to say no as it has to
            say what a tag means.

        Raises: LibraryError when the origin denies it.
        """
        now = trio.current_time()
        if self._grants.granted(name, digest, now=now):
            return True
        if self._offline_grants.granted(name, digest, now=now):
            return False
        try:
            with trio.fail_after(
                ORIGIN_PATIENCE_S if at_hand and self._offline_allowed else math.inf
            ):
                await self._ask(name, digest, unknown)
        except (OriginMissing, OriginDenied) as error:
            failure = as_library_error(error, unknown)
            if isinstance(failure, Denied):
                self._grants.revoke(name)
            raise failure from error
        except OriginError as error:
            if not self._offline_allowed:
                raise as_library_error(error, unknown) from error
            return False
        except trio.TooSlowError:
            return False
        self._grants.grant(name, [digest], now=now)
        return True

    async def _ask(
        self, name: RepositoryName, digest: Digest, unknown: type[ManifestUnknown | BlobUnknown]
    ) -> None:
        if unknown is ManifestUnknown:
            await self._origins.head_manifest(
                name.registry, name.repository, digest_text(digest), accept=MANIFEST_TYPES
            )
        else:
            await self._origins.blob_size(name.registry, name.repository, digest)
