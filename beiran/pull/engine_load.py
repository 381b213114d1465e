"""Giving the local engine an image without its having to pull: only the layers that it lacks."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio
from msgspec import Struct

from beiran.engine.interface import BlobReader, Engine, ImageToLoad, LayerToLoad, Manifest
from beiran.ids import Digest
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import Descriptor, ImageManifest, media_type_of
from beiran.pull.layer_format import LayerFacts
from beiran.pull.layer_locations import Survey
from beiran.pull.manifest_store import Documents
from beiran.transfer.downloads import Transfers, Wanted


class _Give(Struct, frozen=True):
    """A layer that the engine lacks, in the form in which it comes here."""

    facts: LayerFacts
    form: Descriptor

    @property
    def is_unpacked(self) -> bool:
        return self.form.raw == self.facts.diff_id


class Loader:
    """Loads images."""

    def __init__(self, engine: Engine, transfers: Transfers, documents: Documents) -> None:
        self._engine: Final = engine
        self._transfers: Final = transfers
        self._documents: Final = documents
        self._lock: Final = trio.Lock()

    async def load(
        self,
        name: RepositoryName,
        image: ImageManifest,
        survey: Survey,
        manifest: bytes,
        *,
        tags: tuple[str, ...] = (),
        from_origin: bool = False,
    ) -> None:
        """Fetch what the engine lacks of an image, and load that.

        Args:
          manifest: as published.
          tags: whole names that it is to have.
          from_origin: whether layers may come from the origin.

        Raises: LibraryError when a layer is not to be had; EngineRefused; EngineUnavailable.
        """
        config = await self._documents.config(name, image.config.raw, image.config.size, ())
        gives = [_Give(facts, facts.best) for facts in survey.layers if not facts.there]
        async with AsyncExitStack() as stack:
            readers: dict[Digest, BlobReader] = {}
            wanted = [
                Wanted(
                    digest=give.form.raw,
                    size_bytes=give.form.size,
                    name=name,
                    from_origin=from_origin and not give.is_unpacked,
                    sources=tuple(survey.sources.get(give.form.raw, ())),
                    rank=rank,
                )
                for rank, give in enumerate(gives)
            ]
            async with self._all_here(wanted):
                for one in wanted:
                    if one.digest not in readers:
                        readers[one.digest] = await stack.enter_async_context(
                            self._transfers.open_here(one.digest)
                        )
            async with self._lock:
                await self._engine.load(
                    ImageToLoad(
                        config=config,
                        layers=tuple(_layer(facts, readers) for facts in survey.layers),
                        tags=tags,
                        manifest=Manifest(media_type_of(manifest), manifest),
                    )
                )

    @asynccontextmanager
    async def _all_here(self, wanted: Sequence[Wanted]) -> AsyncIterator[None]:
        """Fetch all of these, side by side."""
        async with AsyncExitStack() as stack:
            held = [await stack.enter_async_context(self._transfers.fetching(w)) for w in wanted]
            for transfer in held:
                await transfer.whole()
            yield


def _layer(facts: LayerFacts, readers: dict[Digest, BlobReader]) -> LayerToLoad:
    if facts.there:
        return LayerToLoad(facts.diff_id)
    form = facts.best
    if form.raw == facts.diff_id:
        return LayerToLoad(facts.diff_id, readers[form.raw])
    return LayerToLoad(facts.diff_id, readers[form.raw], form.raw, form.media_type)
