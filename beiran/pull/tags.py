"""Resolve a tag to a digest: by the origin, or while the origin is down by what nodes remember.

``resolver`` calls ``Tags.resolve``. Three cases:

1. The origin answers with a digest. The tag names it, and the store keeps both with the time.
2. The origin has no such tag, or denies access. The tag may name an image that was only built in
   the cluster: one that a node holds under this tag and does not have from that repository.
3. The origin does not answer. The tag names the digest that this node or a peer learned from the
   origin last. If no node has asked the origin, it names the newest image that a node holds under
   this tag.
"""

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio
from cachetools import LRUCache
from msgspec import Struct

from beiran.api.models import TagMeaning
from beiran.clock import now_text, seconds_ago_text
from beiran.engine.diff_id_manifest import is_by_diff_ids
from beiran.engine.interface import Manifest
from beiran.ids import Digest, NodeId, digest_text, parse_digest
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import (
    Denied,
    ManifestUnknown,
    MirrorError,
    OriginBroken,
    OriginLimited,
    Unavailable,
)
from beiran.oci.familiar_names import familiar_name
from beiran.oci.manifests import DOCKER_MANIFEST, MANIFEST_TYPES, digest_of
from beiran.oci.media_types import Accept
from beiran.pull.peer_lookup import PeerLookup
from beiran.registry import errors as origin
from beiran.registry.registry_client import OriginClient
from beiran.store.async_reads import Reads
from beiran.store.reads import NamedHolding
from beiran.store.store import Store

ORIGIN_PATIENCE_S: Final = 2.0
"""How long an origin has to resolve a tag before peers are asked. The mirror answers
within 9.5 s, and may load layers into the engine for 6 s of them. Chosen."""

RECENT_MAX: Final = 1000
"""Tags that are remembered in memory; some 300 kB."""

REMEMBER_INTERVAL_S: Final = 60.0
"""An unchanged tag is written to the store again after this time at the soonest."""

CLOCKS_APART_S: Final = 60.0
"""A peer whose answer is later than now by more than this has a wrong clock, and comes last."""

_log: Final = logging.getLogger(__name__)


class RegistryImage(Struct, frozen=True, kw_only=True):
    """A tag names a manifest or index that a registry has.

    Attributes:
      size_bytes: None where no answer said it.
      warning: empty when the origin itself says so, now.
      nodes: the nodes that say so otherwise; they most likely have it.
    """

    digest: Digest
    media_type: str
    size_bytes: int | None
    warning: str = ""
    nodes: tuple[NodeId, ...] = ()


class BuiltImage(Struct, frozen=True, kw_only=True):
    """A tag names an image, by its config, that these nodes hold: built there, or loaded."""

    image: Digest
    nodes: tuple[NodeId, ...]
    warning: str = ""


Resolved = RegistryImage | BuiltImage


class TagResolver:
    """Resolves tags.

    Args:
      online: the other members that are online, in any order.
      ttl_s: how long an origin's answer counts without asking again.
      offline_allowed: whether peers' answers count while the origin does not answer.
    """

    def __init__(
        self,
        store: Store,
        reads: Reads,
        lookup: PeerLookup,
        origins: OriginClient,
        *,
        online: Callable[[], Sequence[NodeId]],
        random: Random,
        ttl_s: float,
        offline_allowed: bool,
    ) -> None:
        self._store: Final = store
        self._reads: Final = reads
        self._lookup: Final = lookup
        self._origins: Final = origins
        self._online: Final = online
        self._random: Final = random
        self._ttl_s: Final = ttl_s
        self._offline_allowed: Final = offline_allowed
        self._recent: LRUCache[tuple[RepositoryName, str], tuple[float, RegistryImage]] = LRUCache(
            RECENT_MAX
        )

    async def resolve(self, name: RepositoryName, tag: str, accept: Accept) -> Resolved:
        """What ``tag`` names in a repository. Raises: MirrorError."""
        now = trio.current_time()
        known = self._recent.get((name, tag))
        if known is not None and now - known[0] < self._ttl_s:
            return known[1]
        try:
            with trio.fail_after(ORIGIN_PATIENCE_S):
                head = await self._origins.head_manifest(
                    name.registry, name.repository, tag, accept=_accepted(accept)
                )
        except (origin.OriginMissing, origin.OriginDenied) as error:
            self._recent.pop((name, tag), None)
            return await self._built(name, tag, error)
        except (origin.OriginError, trio.TooSlowError) as error:
            why = str(error) or f"no answer within {ORIGIN_PATIENCE_S:g} s"
            return await self._offline(name, tag, why, error)
        found = RegistryImage(
            digest=head.digest, media_type=head.media_type, size_bytes=head.size_bytes
        )
        await self._remember(name, tag, found, now)
        return found

    async def _remember(
        self, name: RepositoryName, tag: str, found: RegistryImage, now: float
    ) -> None:
        before = self._recent.pop((name, tag), None)
        self._recent[name, tag] = (now, found)
        is_same = before is not None and before[1].digest == found.digest
        if before is not None and is_same and now - before[0] < REMEMBER_INTERVAL_S:
            return
        meaning = TagMeaning(
            reference=f"{name}:{tag}",
            digest=digest_text(found.digest),
            media_type=found.media_type,
            size_bytes=found.size_bytes or 0,
            resolved_at=now_text(),
        )
        await trio.to_thread.run_sync(self._store.remember_tag, meaning)

    async def _built(self, name: RepositoryName, tag: str, error: origin.OriginError) -> Resolved:
        """An image that a node built under this name, where the origin has none for this host."""
        for image, holdings in (await self._holders(name, tag)).items():
            nodes = tuple(holding.node for holding in holdings)
            if any(not _digests_from(holding, name) for holding in holdings):
                return BuiltImage(image=image, nodes=nodes)
            # All pulled it, perhaps by diff IDs from a node that built it and no longer has it.
            data = await self._lookup.image_manifest(image, nodes)
            if data is not None and is_by_diff_ids(Manifest(DOCKER_MANIFEST, data)):
                ours = digest_text(digest_of(data))
                if all(ours in _digests_from(holding, name) for holding in holdings):
                    return BuiltImage(image=image, nodes=nodes)
        if isinstance(error, origin.OriginDenied):
            raise Denied(str(error)) from error
        raise ManifestUnknown(str(error)) from error

    async def _offline(
        self, name: RepositoryName, tag: str, why: str, error: BaseException
    ) -> Resolved:
        """What this node or a peer last learnt from the origin, the newest first."""
        if not self._offline_allowed:
            raise Unavailable(f"{name.registry} does not answer ({why})") from error
        reference = f"{name}:{tag}"
        holders = await self._holders(name, tag)
        nodes = [h.node for holdings in holders.values() for h in holdings]
        others = list(self._online())
        self._random.shuffle(others)
        said = await self._lookup.tag_meanings(reference, [*nodes, *others])
        meanings = [meaning for _, meaning in said]
        own = await self._reads(lambda queries: queries.tag_meaning(reference))
        if own is not None:
            meanings.append(own)
        if meanings:
            soon = seconds_ago_text(-CLOCKS_APART_S)
            newest = max(meanings, key=lambda m: (m.resolved_at <= soon, m.resolved_at))
            warning = (
                f"{name.registry} does not answer ({why}); "
                f"using what {tag} named at {newest.resolved_at}"
            )
            _log.warning("%s: %s", reference, warning)
            return RegistryImage(
                digest=parse_digest(newest.digest),
                media_type=newest.media_type,
                size_bytes=newest.size_bytes or None,
                warning=warning,
                nodes=tuple(node for node, answer in said if answer.digest == newest.digest),
            )
        for image, holdings in holders.items():
            warning = f"{name.registry} does not answer ({why}); using what other nodes tag {tag}"
            _log.warning("%s: %s", reference, warning)
            return BuiltImage(image=image, nodes=tuple(h.node for h in holdings), warning=warning)
        raise _unresolved(name, why, error)

    async def _holders(self, name: RepositoryName, tag: str) -> dict[Digest, list[NamedHolding]]:
        """The nodes that hold an image under a tag, by image, the newest image first."""
        called = familiar_name(f"{name}:{tag}")
        found: dict[Digest, list[NamedHolding]] = {}
        for holding in await self._reads(lambda queries: queries.holdings_named(called)):
            found.setdefault(holding.image, []).append(holding)
        return found


def _accepted(accept: Accept) -> Sequence[str]:
    """The ``Accept`` for the origin: those manifest types that the client takes."""
    return [name for name in MANIFEST_TYPES if accept.takes(name)] or MANIFEST_TYPES


def _digests_from(holding: NamedHolding, name: RepositoryName) -> set[str]:
    """The digests of that repository by which a node's engine knows an image."""
    prefix = familiar_name(str(name)) + "@"
    return {d.removeprefix(prefix) for d in holding.digests if d.startswith(prefix)}


def _unresolved(name: RepositoryName, why: str, error: BaseException) -> MirrorError:
    if isinstance(error, origin.OriginLimited):
        return OriginLimited(f"{name.registry}: {why}, and no other node has this tag")
    if isinstance(error, origin.OriginBroken):
        return OriginBroken(f"{why}, and no other node has this tag")
    return Unavailable(f"{name.registry} does not answer ({why}), and no other node has this tag")
