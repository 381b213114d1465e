"""What a tag means now: as its origin says, or, while that is away, as the peers last knew.

- The origin answers: that is what it means, and it is remembered with the time.
- The origin says that there is no such thing, or that we may not have it: then it may be an image
  that was only ever built here. It is one if somebody holds it under this tag without having it
  from that repository.
- The origin does not answer: what we or a peer last heard from it counts, the newest first; where
  nobody heard anything, the newest image that somebody calls so.
"""

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio
from msgspec import Struct

from beiran.api.models import TagMeaning
from beiran.clock import now_text, seconds_ago_text
from beiran.engine.diff_id_manifest import is_by_diff_ids
from beiran.engine.interface import Manifest
from beiran.ids import Digest, NodeId, digest_text, parse_digest
from beiran.mirror.backend import (
    Denied,
    LibraryError,
    ManifestUnknown,
    OriginBroken,
    OriginLimited,
    RepositoryName,
    Unavailable,
)
from beiran.oci.familiar_names import familiar_name
from beiran.oci.manifests import DOCKER_MANIFEST, MANIFEST_TYPES, digest_of
from beiran.oci.media_types import Accept
from beiran.pull.peer_lookup import Nearby
from beiran.registry import errors as origin
from beiran.registry.registry_client import OriginClient
from beiran.store.async_reads import Reads
from beiran.store.reads import NamedHolding
from beiran.store.store import Store

ORIGIN_PATIENCE_S: Final = 2.0
"""So long an origin may take to say what a tag means; then the peers are asked."""
RECENT_MAX: Final = 1000
CLOCKS_APART_S: Final = 60.0
"""What a peer says that it heard later than so long from now comes last: its clock is wrong."""

_log: Final = logging.getLogger(__name__)


class Published(Struct, frozen=True, kw_only=True):
    """A tag means a manifest or index that a registry has.

    Attributes:
      size_bytes: None where nobody has said it.
      warning: empty when the origin itself says so, now.
      nodes: who says so otherwise, and has it most likely.
    """

    digest: Digest
    media_type: str
    size_bytes: int | None
    warning: str = ""
    nodes: tuple[NodeId, ...] = ()


class Held(Struct, frozen=True, kw_only=True):
    """A tag means an image by its config, as these nodes hold it: built there, or loaded."""

    image: Digest
    nodes: tuple[NodeId, ...]
    warning: str = ""


Meaning = Published | Held


class Meanings:
    """Finds out what tags mean.

    Args:
      online: the other members that are online, in no particular order.
      ttl_s: how long what an origin said is taken as still true without asking.
      offline_allowed: whether peers may say what a tag means while the origin is away.
    """

    def __init__(
        self,
        store: Store,
        reads: Reads,
        nearby: Nearby,
        origins: OriginClient,
        *,
        online: Callable[[], Sequence[NodeId]],
        random: Random,
        ttl_s: float,
        offline_allowed: bool,
    ) -> None:
        self._store: Final = store
        self._reads: Final = reads
        self._nearby: Final = nearby
        self._origins: Final = origins
        self._online: Final = online
        self._random: Final = random
        self._ttl_s: Final = ttl_s
        self.offline_allowed: Final = offline_allowed
        self._recent: dict[tuple[RepositoryName, str], tuple[float, Published]] = {}

    async def meaning(self, name: RepositoryName, tag: str, accept: Accept) -> Meaning:
        """What ``tag`` means in a repository. Raises: LibraryError."""
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
        found = Published(
            digest=head.digest, media_type=head.media_type, size_bytes=head.size_bytes
        )
        await self._remember(name, tag, found, now)
        return found

    async def _remember(self, name: RepositoryName, tag: str, found: Published, now: float) -> None:
        before = self._recent.pop((name, tag), None)
        self._recent[(name, tag)] = (now, found)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]
        if before is not None and before[1].digest == found.digest and now - before[0] < 60:
            return
        meaning = TagMeaning(
            reference=f"{name}:{tag}",
            digest=digest_text(found.digest),
            media_type=found.media_type,
            size_bytes=found.size_bytes or 0,
            resolved_at=now_text(),
        )
        await trio.to_thread.run_sync(self._store.remember_tag, meaning)

    async def _built(self, name: RepositoryName, tag: str, error: origin.OriginError) -> Meaning:
        """An image that somebody built under this name, where the origin has none for us."""
        for image, holdings in (await self._holders(name, tag)).items():
            nodes = tuple(holding.node for holding in holdings)
            if any(not _digests_from(holding, name) for holding in holdings):
                return Held(image=image, nodes=nodes)
            # All have it by a pull: perhaps from one of us who had built it, by diff IDs.
            given = await self._nearby.image_manifest(image, nodes)
            if given is not None and is_by_diff_ids(Manifest(DOCKER_MANIFEST, given[0])):
                ours = digest_text(digest_of(given[0]))
                if all(ours in _digests_from(holding, name) for holding in holdings):
                    return Held(image=image, nodes=nodes)
        if isinstance(error, origin.OriginDenied):
            raise Denied(str(error)) from error
        raise ManifestUnknown(str(error)) from error

    async def _offline(
        self, name: RepositoryName, tag: str, why: str, error: BaseException
    ) -> Meaning:
        """What we or peers last knew, the newest first."""
        if not self.offline_allowed:
            raise Unavailable(f"{name.registry} does not answer ({why})") from error
        reference = f"{name}:{tag}"
        holders = await self._holders(name, tag)
        nodes = [h.node for holdings in holders.values() for h in holdings]
        others = list(self._online())
        self._random.shuffle(others)
        said = await self._nearby.meanings(reference, [*nodes, *others])
        meanings = [meaning for _, meaning in said]
        own = await self._reads(lambda queries: queries.tag_meaning(reference))
        if own is not None:
            meanings.append(own)
        if meanings:
            soon = seconds_ago_text(-CLOCKS_APART_S)
            newest = max(meanings, key=lambda m: (m.resolved_at <= soon, m.resolved_at))
            warning = (
                f"{name.registry} does not answer ({why}); "
                f"{tag} is what it meant at {newest.resolved_at}"
            )
            _log.warning("%s: %s", reference, warning)
            return Published(
                digest=parse_digest(newest.digest),
                media_type=newest.media_type,
                size_bytes=newest.size_bytes or None,
                warning=warning,
                nodes=tuple(node for node, meant in said if meant.digest == newest.digest),
            )
        for image, holdings in holders.items():
            warning = f"{name.registry} does not answer ({why}); {tag} is what other nodes call so"
            _log.warning("%s: %s", reference, warning)
            return Held(image=image, nodes=tuple(h.node for h in holdings), warning=warning)
        raise _away(name, why, error)

    async def _holders(self, name: RepositoryName, tag: str) -> dict[Digest, list[NamedHolding]]:
        """Who holds which images under a tag, the newest image first."""
        called = familiar_name(f"{name}:{tag}")
        found: dict[Digest, list[NamedHolding]] = {}
        for holding in await self._reads(lambda queries: queries.holdings_named(called)):
            found.setdefault(holding.image, []).append(holding)
        return found


def _accepted(accept: Accept) -> Sequence[str]:
    """What the origin is told that we take: what the client takes of what there is."""
    return [name for name in MANIFEST_TYPES if accept.takes(name)] or MANIFEST_TYPES


def _digests_from(holding: NamedHolding, name: RepositoryName) -> set[str]:
    """By which digests a node has an image from that repository, for all its engine knows."""
    prefix = familiar_name(str(name)) + "@"
    return {d.removeprefix(prefix) for d in holding.digests if d.startswith(prefix)}


def _away(name: RepositoryName, why: str, error: BaseException) -> LibraryError:
    if isinstance(error, origin.OriginLimited):
        return OriginLimited(f"{name.registry}: {why}, and no other node knows this tag")
    if isinstance(error, origin.OriginBroken):
        return OriginBroken(f"{why}, and no other node knows this tag")
    return Unavailable(f"{name.registry} does not answer ({why}), and no other node knows this tag")
