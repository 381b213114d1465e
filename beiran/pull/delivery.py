"""Deliver an image to the local engine: by the cheapest manifest, or by loading missing layers.

``best_form`` answers an engine's request for a manifest (``mirror_backend``): where another form
of the layers spares bytes (``layer_format``), it answers with a composed manifest, or loads the
missing layers into the engine meanwhile. ``load`` does that without an engine's request, for
``jobs``. ``docs/explanation/pull.md``, "What engines do", has the
rules of the engines that this relies on.
"""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from enum import Enum
from typing import Final

import msgspec
import trio
from msgspec import Struct

from beiran.engine.interface import BlobReader, Engine, ImageToLoad, LayerToLoad, Manifest
from beiran.errors import EngineRefused, EngineUnavailable
from beiran.ids import Digest, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import MirrorError
from beiran.oci.manifests import (
    DOCKER_MANIFEST,
    ImageManifest,
    Index,
    Platform,
    choose_platform,
    digest_of,
    media_type_of,
    schema_2_manifest,
)
from beiran.pull.authorization import Authorization
from beiran.pull.layer_format import (
    LOADED_BYTES_MAX,
    LayerFacts,
    bytes_to_load,
    is_better_loaded,
    needs_another_form,
)
from beiran.pull.locations import ImageLocations, Locator
from beiran.pull.manifest_store import ManifestStore, parsed_manifest
from beiran.pull.peer_lookup import PeerLookup
from beiran.pull.resolver import ResolvedImage
from beiran.transfer.blob_download import BlobRequest
from beiran.transfer.downloads import Downloads
from beiran.transfer.local_blobs import LocalBlobs

LOAD_PATIENCE_S: Final = 6.0
"""How long an engine's request for a manifest waits for layers to be loaded. The mirror answers
within 9.5 s (``mirror.routes.FIRST_BYTE_S_MAX``), and resolving the tag may take 2 s of them."""

_log: Final = logging.getLogger(__name__)


class LoadOutcome(Enum):
    """What became of an attempt to load an image while its engine waits."""

    LOADED = "the engine has the whole image"
    NOT_LOADED = "it is not worth it, or the engine or the time did not allow it"
    SOURCE_FAILED = "a peer did not give a layer that it said it has, and is a suspect now"


class _Image(Struct, frozen=True, kw_only=True):
    """The image of this host's platform that a name resolved to.

    Attributes:
      manifest: its bytes: those of ``found``, or of one manifest of that index.
      document: the same, read.
    """

    found: ResolvedImage
    manifest: bytes
    document: ImageManifest


class _Composed(Struct, frozen=True):
    """A manifest that was made here.

    Attributes:
      answer: what to answer: the manifest, or the index that names it; the published one where
        the cache had no room for what was made.
    """

    answer: bytes
    manifest: bytes


class Delivery:
    """Delivers images to one engine.

    Args:
      platforms: what this host runs, the best first.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        local: LocalBlobs,
        downloads: Downloads,
        manifests: ManifestStore,
        locator: Locator,
        lookup: PeerLookup,
        authorization: Authorization,
        platforms: Sequence[Platform],
    ) -> None:
        self._engine: Final = engine
        self._local: Final = local
        self._downloads: Final = downloads
        self._manifests: Final = manifests
        self._locator: Final = locator
        self._lookup: Final = lookup
        self._authorization: Final = authorization
        self._platforms: Final = platforms
        self._loading: Final = trio.Lock()

    # --- for an engine that asks for a manifest ---------------------------------------------

    async def best_form(self, found: ResolvedImage) -> bytes:
        """The manifest or index with which the engine fetches the fewest bytes of ``found``.

        That is ``found`` itself where nothing is better, or something goes wrong on the way.
        """
        if not found.provenance.is_in_registry:
            if found.locations is not None and isinstance(found.document, ImageManifest):
                image = _Image(found=found, manifest=found.data, document=found.document)
                await self._load_if_quick(image, found.locations)
            return found.data
        chosen = await self._image_of(found)
        if chosen is None:
            return found.data
        locations = await self._locate(chosen)
        if locations is None or locations.here:
            return found.data
        if locations.keeps_blobs:
            return await self._for_store_of_blobs(chosen, locations)
        return await self._for_graph_driver(chosen, locations)

    async def _image_of(self, found: ResolvedImage) -> _Image | None:
        """The image for this host's platform; None for an index without one, or asked by digest."""
        if isinstance(found.document, ImageManifest):
            return _Image(found=found, manifest=found.data, document=found.document)
        chosen = choose_platform(found.document, self._platforms) if found.by_tag else None
        if chosen is None:
            return None
        data = await self._manifests.manifest(
            found.name, chosen.raw, chosen.size, found.near, from_origin=True
        )
        document = parsed_manifest(found.name, data)
        if not isinstance(document, ImageManifest):
            return None
        self._authorization.note(found.name, chosen.raw, document, found.provenance)
        return _Image(found=found, manifest=data, document=document)

    async def _locate(self, image: _Image) -> ImageLocations | None:
        found = image.found
        return await self._locator.locate(found.name, image.document, found.near, from_origin=True)

    async def _for_graph_driver(self, image: _Image, locations: ImageLocations) -> bytes:
        """Load what is near; else name the tars that peers have by a composed manifest."""
        outcome = await self._load_if_quick(image, locations)
        if outcome is LoadOutcome.LOADED:
            return image.found.data
        if outcome is LoadOutcome.SOURCE_FAILED:
            locations = await self._locate(image) or locations
        if not image.found.by_tag or not needs_another_form(locations.layers):
            return image.found.data
        return (await self._compose(image, locations)).answer

    async def _for_store_of_blobs(self, image: _Image, locations: ImageLocations) -> bytes:
        """As ``_for_graph_driver``, for a store that needs every blob that its manifest names.

        A pull skips layers that the store has unpacked from other blobs. Those must be loaded, by
        the manifest that the engine pulls then, for another one names other blobs.
        """
        if image.found.by_tag and needs_another_form(locations.layers):
            composed = await self._compose(image, locations)
            if await self._gets_all_blobs(image, composed.manifest):
                return composed.answer
        if locations.skips:
            await self._load_if_quick(image, locations.as_published, from_origin=True)
        return image.found.data

    async def _gets_all_blobs(self, image: _Image, manifest: bytes) -> bool:
        """Whether an engine that pulls by this manifest has all its blobs in the end."""
        name, near = image.found.name, image.found.near
        document = parsed_manifest(name, manifest)
        assert isinstance(document, ImageManifest)
        config = await self._manifests.config(name, document, near, from_origin=True)
        locations = None if config is None else await self._locator.find(document, config, near)
        if locations is None:
            return False
        composed = _Image(found=image.found, manifest=manifest, document=document)
        return (
            not locations.skips
            or await self._load_if_quick(composed, locations) is LoadOutcome.LOADED
        )

    async def _compose(self, image: _Image, locations: ImageLocations) -> _Composed:
        """Make a manifest whose layers have their best form, and keep it in the cache."""
        found = image.found
        manifest = schema_2_manifest(
            image.document.config, [layer.best for layer in locations.layers]
        )
        document = parsed_manifest(found.name, manifest)
        assert isinstance(document, ImageManifest)
        if not await self._manifests.keep(digest_of(manifest), manifest):
            return _Composed(found.data, manifest)
        self._authorization.note(found.name, digest_of(manifest), document, found.provenance)
        self._locator.blobs.note(found.name, document, locations, from_origin=True)
        if not isinstance(found.document, Index):
            return _Composed(manifest, manifest)
        index = _with_replaced(found.data, digest_of(image.manifest), manifest)
        if not await self._manifests.keep(digest_of(index), index):
            return _Composed(found.data, manifest)
        self._authorization.note(found.name, digest_of(index), found.document, found.provenance)
        return _Composed(index, manifest)

    async def _load_if_quick(
        self, image: _Image, locations: ImageLocations, *, from_origin: bool = False
    ) -> LoadOutcome:
        """Load what the engine lacks, if that is better than its pull and takes seconds only."""
        if locations.here:
            return LoadOutcome.LOADED
        if not locations.pulls or not is_better_loaded(locations.layers):
            return LoadOutcome.NOT_LOADED
        size = bytes_to_load(locations.layers, from_origin=from_origin)
        if size is None or size > LOADED_BYTES_MAX:
            return LoadOutcome.NOT_LOADED
        name = image.found.name
        with trio.move_on_after(LOAD_PATIENCE_S):
            try:
                await self.load(
                    name, image.document, locations, image.manifest, from_origin=from_origin
                )
                return LoadOutcome.LOADED
            except (MirrorError, EngineRefused, EngineUnavailable) as error:
                _log.info("%s cannot be loaded into the engine, which pulls it: %s", name, error)
        if self.suspect_sources(locations):
            return LoadOutcome.SOURCE_FAILED
        return LoadOutcome.NOT_LOADED

    def suspect_sources(self, locations: ImageLocations) -> bool:
        """After a failed delivery, suspect the peers that were to give a layer that did not come.

        A wrong size may be the reason: then other peers' size counts, or the published layer.

        Returns: whether any layer's source is a suspect now, so that locating it again may help.
        """
        layers = [layer.best for layer in locations.layers if not layer.there]
        for layer in layers:
            sources = locations.sources.get(layer.raw, ())
            if self._downloads.has_failed(layer.raw, layer.size):
                self._lookup.suspect(layer.raw, sources)
        return any(
            self._lookup.is_suspect(node, layer.raw)
            for layer in layers
            for node in locations.sources.get(layer.raw, ())
        )

    # --- loading ----------------------------------------------------------------------------

    async def load(
        self,
        name: RepositoryName,
        image: ImageManifest,
        locations: ImageLocations,
        manifest: bytes,
        *,
        tags: tuple[str, ...] = (),
        from_origin: bool = False,
    ) -> None:
        """Fetch the layers that the engine lacks of an image, and load them.

        Args:
          manifest: the bytes of ``image``.
          tags: whole names for it.
          from_origin: whether layers may come from the origin.

        Raises: MirrorError when a layer cannot be had; EngineRefused; EngineUnavailable.
        """
        config = await self._manifests.config_data(name, image)
        requests = [
            BlobRequest(
                digest=facts.best.raw,
                size_bytes=facts.best.size,
                name=name,
                from_origin=from_origin and facts.best.raw != facts.diff_id,
                sources=tuple(locations.sources.get(facts.best.raw, ())),
                rank=rank,
            )
            for rank, facts in enumerate(each for each in locations.layers if not each.there)
        ]
        async with AsyncExitStack() as stack:
            readers = await self._open_all(stack, requests)
            async with self._loading:
                await self._engine.load(
                    ImageToLoad(
                        config=config,
                        layers=tuple(_layer(facts, readers) for facts in locations.layers),
                        tags=tags,
                        manifest=Manifest(media_type_of(manifest), manifest),
                    )
                )

    async def _open_all(
        self, stack: AsyncExitStack, requests: Sequence[BlobRequest]
    ) -> dict[Digest, BlobReader]:
        """Open the blobs of this host first, so that none is evicted; then fetch the others."""
        here = await self._local.sizes(request.digest for request in requests)
        readers = {
            digest: await stack.enter_async_context(self._local.open(digest)) for digest in here
        }
        async with AsyncExitStack() as fetching:
            missing = [request for request in requests if request.digest not in here]
            downloads = [
                await fetching.enter_async_context(self._downloads.fetching(request))
                for request in missing
            ]
            for download in downloads:
                if download is not None:
                    await download.whole()
            for digest in dict.fromkeys(request.digest for request in missing):
                readers[digest] = await stack.enter_async_context(self._local.open(digest))
        return readers


def _layer(facts: LayerFacts, readers: dict[Digest, BlobReader]) -> LayerToLoad:
    if facts.there:
        return LayerToLoad(facts.diff_id)
    form = facts.best
    if form.raw == facts.diff_id:
        return LayerToLoad(facts.diff_id, readers[form.raw])
    return LayerToLoad(facts.diff_id, readers[form.raw], form.raw, form.media_type)


def _with_replaced(index: bytes, published: Digest, manifest: bytes) -> bytes:
    """An index with one of its manifests replaced by another for the same platform."""
    document = msgspec.json.decode(index)
    for row in document["manifests"]:
        if row.get("digest") == digest_text(published):
            row.update(
                digest=digest_text(digest_of(manifest)),
                size=len(manifest),
                mediaType=DOCKER_MANIFEST,
            )
    return msgspec.json.encode(document)
