"""Locate the layers of an image: in the engine, in the blob cache, with peers, or at the origin.

``Locator`` asks the engine and the peers when a manifest is resolved. ``BlobLocations`` remembers
what it found for each blob that the manifest names, for the requests by which the engine then asks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

import trio
from cachetools import LRUCache
from msgspec import Struct
from msgspec.structs import replace

from beiran.cache.blob_cache import BlobCache
from beiran.engine.interface import Engine
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import ImageConfig, ImageManifest
from beiran.pull.layer_format import LayerFacts
from beiran.pull.manifest_store import ManifestStore
from beiran.pull.peer_lookup import ASKED_MAX, FoundBlob, PeerLookup
from beiran.store.async_reads import Reads
from beiran.transfer.blob_download import BlobRequest
from beiran.transfer.downloads import Downloads

LOCATIONS_MAX: Final = 20_000
"""Blobs of some 600 images of 30 layers; about 10 MB."""

LOCATION_FRESH_S: Final = 60.0
"""After this time peers are asked anew which blobs they have: nodes join, leave, pull and remove.
Chosen: a question costs each of at most 8 peers one small request."""


class ImageLocations(Struct, frozen=True):
    """Where the layers of an image are.

    Attributes:
      here: the engine has the whole image, and asks for nothing.
      layers: the base first.
      sources: the peers that have a blob, by its digest.
      keeps_blobs: the engine keeps the blobs that a manifest names, as containerd's store does.
      pulls: the engine is one that pulls. If not, no client of the mirror is this engine.
    """

    here: bool
    layers: tuple[LayerFacts, ...]
    sources: Mapping[Digest, tuple[NodeId, ...]]
    keeps_blobs: bool = False
    pulls: bool = True

    @property
    def skips(self) -> bool:
        """Whether the engine, pulling, would skip a blob without which the image is not whole."""
        return any(layer.skipped for layer in self.layers)

    @property
    def as_published(self) -> "ImageLocations":
        """The same without any layer's tar."""
        layers = tuple(replace(each, tar_bytes=None, tar_here=False) for each in self.layers)
        return replace(self, layers=layers)


class _Location(Struct, frozen=True):
    """Where one blob is. ``siblings``: the layers of its image that the engine asks for."""

    size_bytes: int
    from_origin: bool
    sources: tuple[NodeId, ...]
    siblings: tuple[Digest, ...]
    noted_at: float


class BlobLocations:
    """Where blobs were when their manifest was resolved, by repository. In memory and bounded."""

    def __init__(self) -> None:
        self._locations: LRUCache[tuple[RepositoryName, Digest], _Location] = LRUCache(
            LOCATIONS_MAX
        )

    def note(
        self,
        name: RepositoryName,
        image: ImageManifest,
        found: ImageLocations | None,
        *,
        from_origin: bool,
    ) -> None:
        """Remember the blobs that a manifest names.

        Args:
          found: None for a manifest that is no image's (a chart, a signature).
          from_origin: whether the origin has the published blobs.
        """
        sources: Mapping[Digest, tuple[NodeId, ...]] = {} if found is None else found.sources
        published = {layer.digest for layer in image.layers}
        recognised: set[str] = set()
        if found is not None:
            published = {layer.published.digest for layer in found.layers}
            recognised = {layer.published.digest for layer in found.layers if layer.recognised}
        now = trio.current_time()
        siblings = tuple(layer.raw for layer in image.layers if layer.digest not in recognised)
        for layer in image.layers:
            self._locations[name, layer.raw] = _Location(
                size_bytes=layer.size,
                from_origin=from_origin and layer.digest in published,
                sources=tuple(sources.get(layer.raw, ())),
                siblings=siblings,
                noted_at=now,
            )
        self._locations[name, image.config.raw] = _Location(
            size_bytes=image.config.size,
            from_origin=from_origin,
            sources=(),
            siblings=(),
            noted_at=now,
        )

    def is_fresh(self, name: RepositoryName, digest: Digest) -> bool:
        """Whether a blob was located within ``LOCATION_FRESH_S``."""
        location = self._locations.get((name, digest))
        return location is not None and trio.current_time() - location.noted_at <= LOCATION_FRESH_S

    def request(self, name: RepositoryName, digest: Digest) -> BlobRequest | None:
        """How to fetch a blob; None if no manifest that names it was resolved."""
        location = self._locations.get((name, digest))
        if location is None:
            return None
        siblings = location.siblings
        return BlobRequest(
            digest=digest,
            size_bytes=location.size_bytes,
            name=name,
            from_origin=location.from_origin,
            sources=location.sources,
            rank=siblings.index(digest) if digest in siblings else 0,
        )

    def upcoming(self, name: RepositoryName, digest: Digest) -> list[BlobRequest]:
        """All layers that the engine asks for together with this one; none if it is alone."""
        location = self._locations.get((name, digest))
        siblings = dict.fromkeys(location.siblings if location is not None else ())
        if len(siblings) < 2:
            return []
        requests = (self.request(name, each) for each in siblings)
        return [request for request in requests if request is not None]


class Locator:
    """Finds out where the layers of an image are, and remembers it in ``blobs``."""

    def __init__(
        self,
        reads: Reads,
        cache: BlobCache,
        engine: Engine,
        lookup: PeerLookup,
        manifests: ManifestStore,
        downloads: Downloads,
        *,
        own: NodeId,
        random: Random,
    ) -> None:
        self.blobs: Final = BlobLocations()
        self._reads: Final = reads
        self._cache: Final = cache
        self._engine: Final = engine
        self._lookup: Final = lookup
        self._manifests: Final = manifests
        self._downloads: Final = downloads
        self._own: Final = own
        self._random: Final = random

    async def locate(
        self,
        name: RepositoryName,
        image: ImageManifest,
        near: Sequence[NodeId],
        *,
        from_origin: bool,
    ) -> ImageLocations | None:
        """Read an image's config and locate its layers.

        Args:
          near: nodes to ask besides those that hold the image as gossip says.
          from_origin: whether the origin has the config and the published layers.

        Returns: None where the manifest is no image's, and where it has other layers than its
        config.
        Raises: MirrorError when the config cannot be had.
        """
        config = await self._manifests.config(name, image, near, from_origin=from_origin)
        found = None if config is None else await self.find(image, config, near)
        self.blobs.note(name, image, found, from_origin=from_origin)
        return found

    async def locate_once(
        self,
        name: RepositoryName,
        image: ImageManifest,
        near: Sequence[NodeId],
        *,
        from_origin: bool,
    ) -> None:
        """``locate``, unless that was done within ``LOCATION_FRESH_S``."""
        if not self.blobs.is_fresh(name, image.config.raw):
            await self.locate(name, image, near, from_origin=from_origin)

    async def find(
        self, manifest: ImageManifest, config: ImageConfig, near: Sequence[NodeId]
    ) -> ImageLocations | None:
        """Locate the layers of an image whose config is known, without remembering it."""
        diff_ids = config.diff_ids
        published = [layer.raw for layer in manifest.layers]
        if len(diff_ids) != len(published):
            return None
        image = manifest.config.raw
        missing = set(await self._engine.missing_layers(diff_ids))
        known = await self._engine.knows_compressed(dict(zip(published, diff_ids, strict=True)))
        keeps_blobs = self._engine.keeps_compressed_blobs
        local = await self._engine.find_blobs([image, *dict.fromkeys(diff_ids)])
        lacking = [
            (blob, diff_id)
            for blob, diff_id in zip(published, diff_ids, strict=True)
            if (blob not in known if keeps_blobs else diff_id in missing)
            and self._cache.size(blob) is None
        ]
        wanted = [digest for pair in lacking for digest in pair]
        around = await self._ask_peers(image, [diff_id for _, diff_id in lacking], wanted, near)
        facts = []
        for layer, blob, diff_id in zip(manifest.layers, published, diff_ids, strict=True):
            unpacked = diff_id not in missing
            there = blob in known if keeps_blobs else unpacked
            tar_bytes = local.get(diff_id)
            if tar_bytes is None and diff_id in around:
                tar_bytes = around[diff_id].size_bytes
            facts.append(
                LayerFacts(
                    published=layer,
                    diff_id=diff_id,
                    there=there,
                    recognised=blob in known,
                    skipped=unpacked and not there,
                    tar_here=diff_id in local,
                    compressed_near=(
                        self._cache.size(blob) is not None
                        or self._downloads.is_under_way(blob)
                        or blob in around
                    ),
                    tar_bytes=tar_bytes,
                )
            )
        return ImageLocations(
            here=image in local and all(layer.there for layer in facts),
            layers=tuple(facts),
            sources={digest: found.nodes for digest, found in around.items()},
            keeps_blobs=keeps_blobs,
            pulls=self._engine.can_pull,
        )

    async def _ask_peers(
        self,
        image: Digest,
        diff_ids: Sequence[Digest],
        wanted: Sequence[Digest],
        near: Sequence[NodeId],
    ) -> dict[Digest, FoundBlob]:
        """Ask the peers that most likely have them which of ``wanted`` they can give."""
        if not wanted:
            return {}
        texts = [digest_text(digest) for digest in (image, *diff_ids)]
        holders = await self._reads(lambda queries: queries.holders(texts))
        nodes = self._likeliest(holders, texts[0], near)
        return await self._lookup.having(wanted, nodes)

    def _likeliest(
        self, holders: Mapping[str, Sequence[NodeId]], image: str, near: Sequence[NodeId]
    ) -> list[NodeId]:
        """The peers to ask: half of them hold the image, then those that add the most layers.

        Greedy set cover over the layers; ties by node, holders of the image at random, so that
        the questions of many hosts spread.
        """
        whole = [node for node in (*near, *holders.get(image, ())) if node != self._own]
        self._random.shuffle(whole)
        chosen = dict.fromkeys(whole[: ASKED_MAX // 2])
        uncovered = {digest for digest, nodes in holders.items() if not chosen.keys() & set(nodes)}
        while uncovered and len(chosen) < ASKED_MAX:
            counts = Counter(
                node
                for digest in sorted(uncovered)
                for node in holders[digest]
                if node != self._own and node not in chosen
            )
            if not counts:
                break
            best = max(counts.items(), key=lambda item: (item[1], item[0]))[0]
            chosen[best] = None
            uncovered = {digest for digest in uncovered if best not in holders[digest]}
        for node in whole:
            if len(chosen) >= ASKED_MAX:
                break
            chosen[node] = None
        return list(chosen)
