"""What the mirror serves: names resolved, bytes located, the form chosen. Keeps ``Library``.

A tag is looked up (``meanings``), its manifest and config are read (``documents``), it is found out
who has which layers (``survey``), the form is chosen in which the engine gets the image
(``delivery``), and for every blob of it is noted where it can be had (``places``), so that it is
there when the engine asks for it. What this host may have at all the origin says (``permission``).
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio
from msgspec import Struct

from beiran.cache.blob_cache import BlobCache
from beiran.engine.interface import is_engine_client
from beiran.errors import EngineRefused, EngineUnavailable
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import (
    BlobReader,
    BlobUnknown,
    LibraryError,
    ManifestAnswer,
    ManifestUnknown,
    NameUnknown,
    OriginBroken,
    Reference,
    RepositoryName,
    TagPage,
    Unavailable,
)
from beiran.mirror.errors import as_library_error
from beiran.oci.familiar_names import familiar_name
from beiran.oci.manifests import (
    DOCKER_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    Platform,
    choose_platform,
    digest_of,
    media_type_of,
    schema_2_manifest,
    unpacked_layer,
)
from beiran.oci.media_types import ACCEPTS_ANYTHING, Accept
from beiran.pull.authorization import Permission
from beiran.pull.blob_locations import Places
from beiran.pull.engine_load import Loader
from beiran.pull.layer_format import (
    LOADED_BYTES_MAX,
    bytes_to_load,
    is_better_loaded,
    needs_another_form,
)
from beiran.pull.layer_locations import Survey, Surveyor
from beiran.pull.manifest_store import Documents, parsed_config, parsed_manifest
from beiran.pull.peer_lookup import Nearby
from beiran.pull.tags import Held, Meanings, Published
from beiran.registry.errors import OriginError
from beiran.registry.registry_client import OriginClient
from beiran.store.async_reads import Reads
from beiran.transfer.downloads import Transfers, Wanted

LOAD_PATIENCE_S: Final = 6.0
"""So long a request for a manifest waits for layers to be loaded into the engine."""

_log: Final = logging.getLogger(__name__)


class PullPlan(Struct, frozen=True):
    """What a pull comes to.

    Attributes:
      data: the manifest or index that the reference names.
      inner: the manifest of the image: ``data``, or one of the index.
      from_origin: whether the origin can be asked for what nobody near has.
      warning: what the user should know of how the name was understood.
    """

    name: RepositoryName
    data: bytes
    inner: bytes
    image: ImageManifest
    survey: Survey
    from_origin: bool
    warning: str


class Resolution:
    """Answers for every repository of every registry."""

    def __init__(
        self,
        *,
        reads: Reads,
        cache: BlobCache,
        origins: OriginClient,
        nearby: Nearby,
        transfers: Transfers,
        documents: Documents,
        meanings: Meanings,
        surveyor: Surveyor,
        loader: Loader,
        platforms: Sequence[Platform],
        own: NodeId,
    ) -> None:
        self._reads: Final = reads
        self._cache: Final = cache
        self._origins: Final = origins
        self._nearby: Final = nearby
        self._transfers: Final = transfers
        self._documents: Final = documents
        self._meanings: Final = meanings
        self._surveyor: Final = surveyor
        self._loader: Final = loader
        self._platforms: Final = platforms
        self._own: Final = own
        self._permission: Final = Permission(origins, offline_allowed=meanings.offline_allowed)
        self._places: Final = Places()

    # --- manifests --------------------------------------------------------------------------

    async def manifest(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        accept: Accept = ACCEPTS_ANYTHING,
        head: bool = False,
        client: str = "",
    ) -> ManifestAnswer:
        """As ``Library`` says."""
        for_engine = is_engine_client(client)
        if isinstance(reference, bytes):
            return await self._by_digest(name, Digest(reference), for_engine=for_engine)
        meaning = await self._meanings.meaning(name, reference, accept)
        if isinstance(meaning, Held):
            return await self._held(name, meaning, for_engine=for_engine)
        return await self._published(name, reference, meaning, for_engine=for_engine)

    async def _published(
        self, name: RepositoryName, tag: str, meaning: Published, *, for_engine: bool
    ) -> ManifestAnswer:
        away = bool(meaning.warning)
        near = await self._near(name, f":{tag}", f"@{digest_text(meaning.digest)}")
        near += meaning.nodes
        data = await self._documents.manifest(
            name, meaning.digest, meaning.size_bytes, near, from_origin=not away
        )
        document = parsed_manifest(name, data)
        self._permission.note(name, meaning.digest, document, away=away)
        if for_engine:
            data = await self._in_best_form(name, data, document, near, composing=True, away=away)
        elif isinstance(document, ImageManifest):
            await self._survey_once(name, document, near)
        return ManifestAnswer(
            digest=digest_of(data),
            media_type=media_type_of(data),
            size_bytes=len(data),
            data=data,
            source="peers" if away else "origin",
            warning=meaning.warning,
        )

    async def _held(
        self, name: RepositoryName, meaning: Held, *, for_engine: bool
    ) -> ManifestAnswer:
        """An image as whoever holds it gives it."""
        data = await self._documents.image_manifest(meaning.image, meaning.nodes)
        if data is None:
            raise Unavailable(
                f"{len(meaning.nodes)} nodes hold an image under this name of {name}, "
                "but none of them gives it"
            )
        document = parsed_manifest(name, data)
        self._permission.note(name, digest_of(data), document, away=bool(meaning.warning))
        if isinstance(document, ImageManifest):
            survey = await self._survey(name, document, meaning.nodes, from_origin=False)
            mended = None if survey is None else _with_sizes_of_most(document, survey)
            if mended is not None and await self._documents.keep(digest_of(mended), mended):
                data, document = mended, parsed_manifest(name, mended)
                assert isinstance(document, ImageManifest)
                self._permission.note(name, digest_of(data), document, away=bool(meaning.warning))
                survey = await self._survey(name, document, meaning.nodes, from_origin=False)
            if for_engine and survey is not None:
                await self._load_if_quick(name, document, survey, data)
        return ManifestAnswer(
            digest=digest_of(data),
            media_type=media_type_of(data),
            size_bytes=len(data),
            data=data,
            source="peers",
            warning=meaning.warning,
        )

    async def _by_digest(
        self, name: RepositoryName, digest: Digest, *, for_engine: bool
    ) -> ManifestAnswer:
        near = await self._near(name, f"@{digest_text(digest)}")
        at_hand = bool(near) or await self._documents.manifest_here(digest) is not None
        away = not await self._permission.asked(name, digest, ManifestUnknown, at_hand=at_hand)
        try:
            data = await self._documents.manifest(name, digest, None, near, from_origin=not away)
        except ManifestUnknown as error:
            if away:
                raise _away(name, digest) from error
            raise
        document = parsed_manifest(name, data)
        self._permission.note(name, digest, document, away=away)
        if isinstance(document, ImageManifest):
            if for_engine:
                await self._in_best_form(name, data, document, near, composing=False, away=away)
            else:
                await self._survey_once(name, document, near)
        return ManifestAnswer(
            digest=digest,
            media_type=media_type_of(data),
            size_bytes=len(data),
            data=data,
            source="peers" if away else "origin",
        )

    async def plan(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        platforms: Sequence[Platform] = (),
        node: NodeId | None = None,
        tag: str = "",
    ) -> "PullPlan":
        """What pulling ``reference`` comes to: the image, and who has what of it.

        Args:
          platforms: what is wanted of an index, the best first; this host's by default.
          node: take what this node has under that name, whatever the origin says.
          tag: by which ``node`` calls it, where ``reference`` is a digest.

        Raises: LibraryError.
        """
        from_origin, warning = True, ""
        if node is not None:
            data = await self._of_node(name, reference if isinstance(reference, str) else tag, node)
            from_origin, near = False, [node]
        elif isinstance(reference, bytes):
            answer = await self._by_digest(name, Digest(reference), for_engine=False)
            assert answer.data is not None
            data, near = answer.data, await self._near(name, f"@{digest_text(answer.digest)}")
            from_origin = answer.source == "origin"
        else:
            meaning = await self._meanings.meaning(name, reference, ACCEPTS_ANYTHING)
            warning = meaning.warning
            if isinstance(meaning, Held):
                answer = await self._held(name, meaning, for_engine=False)
                from_origin, near = False, list(meaning.nodes)
            else:
                answer = await self._published(name, reference, meaning, for_engine=False)
                near = await self._near(name, f":{reference}", f"@{digest_text(answer.digest)}")
                from_origin = not meaning.warning
            assert answer.data is not None
            data = answer.data
        document = parsed_manifest(name, data)
        inner = data
        if isinstance(document, Index):
            chosen = choose_platform(document, platforms or self._platforms)
            if chosen is None:
                runs = " or ".join(map(str, platforms or self._platforms))
                raise ManifestUnknown(f"{name} has no image for {runs} under that name")
            inner = await self._documents.manifest(
                name, chosen.raw, chosen.size, near, from_origin=from_origin
            )
            document = parsed_manifest(name, inner)
            if not isinstance(document, ImageManifest):
                raise OriginBroken(f"{name}: an index in an index, where an image is due")
            self._permission.note(name, chosen.raw, document, away=not from_origin)
        survey = await self._survey(name, document, near, from_origin=from_origin)
        if survey is None:
            raise OriginBroken(f"{name}: its manifest and its config do not go together")
        return PullPlan(name, data, inner, document, survey, from_origin, warning)

    async def _of_node(self, name: RepositoryName, tag: str, node: NodeId) -> bytes:
        """The manifest by which ``node`` gives what it has under a tag."""
        called = familiar_name(f"{name}:{tag}")
        rows = await self._reads(lambda queries: queries.holdings_named(called))
        images = [row.image for row in rows if row.node == node]
        if not images:
            raise ManifestUnknown(f"that node has no {called}, or is offline")
        found = await self._nearby.image_manifest(images[0], [node])
        if found is None:
            raise Unavailable(f"that node does not give {called}")
        await self._documents.keep(digest_of(found[0]), found[0])
        self._permission.note(name, digest_of(found[0]), parsed_manifest(name, found[0]), away=True)
        return found[0]

    # --- the form ---------------------------------------------------------------------------

    async def _in_best_form(
        self,
        name: RepositoryName,
        data: bytes,
        document: ImageManifest | Index,
        near: Sequence[NodeId],
        *,
        composing: bool,
        away: bool,
    ) -> bytes:
        """The manifest or index that the engine is best given for what ``data`` means.

        Args:
          composing: whether it may be another one than asked for, as a tag's may.
          away: the origin does not say what it grants.

        Where there is nothing better, or something goes wrong on the way, it is ``data``.
        """
        index: Index | None = None
        if isinstance(document, Index):
            index, chosen = document, choose_platform(document, self._platforms)
            if chosen is None:
                return data
            inner = await self._documents.manifest(name, chosen.raw, chosen.size, near)
            image = parsed_manifest(name, inner)
            if not isinstance(image, ImageManifest):
                return data
            self._permission.note(name, chosen.raw, image, away=away)
        else:
            image, inner = document, data
        survey = await self._survey(name, image, near, from_origin=True)
        if survey is None or survey.here:
            return data
        if not survey.keeps_blobs:
            doubts = self.doubts
            if await self._load_if_quick(name, image, survey, inner):
                return data
            if self.doubts > doubts:
                survey = await self._survey(name, image, near, from_origin=True) or survey
            if not composing or not needs_another_form(survey.layers):
                return data
            return (await self._compose(name, data, index, image, survey, away=away))[0]
        composes = composing and needs_another_form(survey.layers)
        # What it would pass over must be loaded, by the manifest that it pulls then: another
        # names other blobs.
        if composes:
            whole, composed = await self._compose(name, data, index, image, survey, away=away)
            if await self._has_or_asks_for_all(name, composed, near):
                return whole
        if survey.skips:
            await self._load_if_quick(name, image, survey.as_published, inner, from_origin=True)
        return data

    async def _has_or_asks_for_all(
        self, name: RepositoryName, data: bytes, near: Sequence[NodeId]
    ) -> bool:
        """Whether an engine that pulls by this manifest has all its blobs in the end."""
        image = parsed_manifest(name, data)
        assert isinstance(image, ImageManifest)
        config = await self._documents.config(name, image.config.raw, image.config.size, near)
        survey = await self._surveyor.survey(image, parsed_config(name, config), near)
        if survey is None:
            return False
        return not survey.skips or await self._load_if_quick(name, image, survey, data)

    async def _survey(
        self,
        name: RepositoryName,
        image: ImageManifest,
        near: Sequence[NodeId],
        *,
        from_origin: bool,
    ) -> Survey | None:
        survey = None
        try:
            config_data = await self._documents.config(
                name, image.config.raw, image.config.size, near, from_origin=from_origin
            )
            config = parsed_config(name, config_data)
        except OriginBroken as error:  # charts and signatures have no image's config either
            _log.debug("%s is served as it is: %s", name, error)
        else:
            survey = await self._surveyor.survey(image, config, near)
        self._places.note(name, image, survey, from_origin=from_origin)
        return survey

    async def _survey_once(
        self, name: RepositoryName, image: ImageManifest, near: Sequence[NodeId]
    ) -> None:
        """Find out where the blobs are that will be asked for, unless that was done just now."""
        if not self._places.is_fresh(name, image.config.raw):
            await self._survey(name, image, near, from_origin=True)

    async def _load_if_quick(
        self,
        name: RepositoryName,
        image: ImageManifest,
        survey: Survey,
        data: bytes,
        *,
        from_origin: bool = False,
    ) -> bool:
        """Load what the engine lacks, if that spares it asking; whether it has all of it now."""
        if survey.here:
            return True
        if not survey.pulls or not is_better_loaded(survey.layers):
            return False
        size = bytes_to_load(survey.layers, from_origin=from_origin)
        if size is None or size > LOADED_BYTES_MAX:
            return False
        with trio.move_on_after(LOAD_PATIENCE_S):
            try:
                await self._loader.load(name, image, survey, data, from_origin=from_origin)
                return True
            except (LibraryError, EngineRefused, EngineUnavailable) as error:
                _log.info("%s cannot be loaded into the engine (%s); it pulls it", name, error)
        self.doubt_failed(survey)
        return False

    @property
    def doubts(self) -> int:
        """How often it was noted that a node does not give what it said it has."""
        return self._nearby.doubts

    def doubt_failed(self, survey: Survey) -> None:
        """After a failure: count no more on those who were to give a blob that was given up.

        A wrong size may have been why: then it is another's that counts, or the layer as published.
        """
        for layer in survey.layers:
            if not layer.there:
                sources = survey.sources.get(layer.best.raw, ())
                self._doubt_failed(layer.best.raw, layer.best.size, sources)

    def _doubt_failed(self, digest: Digest, size_bytes: int, sources: Sequence[NodeId]) -> None:
        came_or_comes = self._transfers.is_cached(digest) or self._transfers.is_under_way(digest)
        if not came_or_comes and self._cache.has_room(size_bytes):
            self._nearby.doubt(digest, sources)

    async def _compose(
        self,
        name: RepositoryName,
        data: bytes,
        index: Index | None,
        image: ImageManifest,
        survey: Survey,
        *,
        away: bool,
    ) -> tuple[bytes, bytes]:
        """A manifest whose layers have the best form each; before it the index if there was one.

        The latter is ``data`` where there is no room to keep what was made.
        """
        composed = schema_2_manifest(image.config, [layer.best for layer in survey.layers])
        document = parsed_manifest(name, composed)
        assert isinstance(document, ImageManifest)
        digest = digest_of(composed)
        if not await self._documents.keep(digest, composed):
            return data, composed
        self._permission.note(name, digest, document, away=away)
        self._places.note(name, document, survey, from_origin=True)
        if index is None:
            return composed, composed
        whole = _with_replaced(data, choose_platform(index, self._platforms), composed)
        if not await self._documents.keep(digest_of(whole), whole):
            return data, composed
        self._permission.note(name, digest_of(whole), index, away=away)
        return whole, composed

    # --- blobs ------------------------------------------------------------------------------

    async def blob_size(self, name: RepositoryName, digest: Digest) -> int:
        """As ``Library`` says."""
        return (await self._wanted(name, digest)).size_bytes

    @asynccontextmanager
    async def blob(self, name: RepositoryName, digest: Digest) -> AsyncIterator[BlobReader]:
        """As ``Library`` says."""
        wanted = await self._wanted(name, digest)
        self._transfers.expect(self._places.upcoming(name, digest))
        coming = True
        try:
            async with self._transfers.open(wanted) as reader:
                coming = self._transfers.is_under_way(digest)
                yield reader
        finally:
            if coming:
                self._doubt_failed(digest, wanted.size_bytes, wanted.sources)

    async def _wanted(self, name: RepositoryName, digest: Digest) -> Wanted:
        noted = self._places.wanted(name, digest)
        size = None if noted is not None else await self._transfers.size_here(digest)
        at_hand = noted is not None or size is not None
        reachable = await self._permission.asked(name, digest, BlobUnknown, at_hand=at_hand)
        if noted is not None:
            return noted
        if size is None and reachable:
            try:
                size = await self._origins.blob_size(name.registry, name.repository, digest)
            except OriginError as error:
                raise as_library_error(error, BlobUnknown) from error
        if size is None:
            raise _away(name, digest)
        return Wanted(digest=digest, size_bytes=size, name=name, from_origin=reachable)

    # --- tags -------------------------------------------------------------------------------

    async def tags(self, name: RepositoryName, *, n: int, last: str = "") -> TagPage:
        """As ``Library`` says."""
        try:
            page = await self._origins.tags(name.registry, name.repository, n=n, last=last)
            return TagPage(tags=page.tags, more=page.more)
        except OriginError as error:
            prefix = familiar_name(str(name)) + ":"
            known = await self._reads(lambda queries: queries.tags_in(prefix))
            tags = sorted(tag.removeprefix(prefix) for tag in known)
            tags = [tag for tag in tags if tag > last]
            if not tags:
                raise as_library_error(error, NameUnknown) from error
            return TagPage(
                tags=tags[:n],
                more=len(tags) > n,
                source="peers",
                warning=f"{error}; these are the tags that nodes have",
            )

    async def _near(self, name: RepositoryName, *names: str) -> list[NodeId]:
        """Which nodes have an image under one of these names (``:tag``, ``@digest``)."""
        repository = familiar_name(str(name))
        asked = [repository + one for one in names]
        rows = await self._reads(
            lambda queries: [row for one in asked for row in queries.holdings_named(one)]
        )
        return [row.node for row in rows if row.node != self._own]


def _away(name: RepositoryName, digest: Digest) -> Unavailable:
    what = f"{digest_text(digest)} of {name}"
    return Unavailable(f"{name.registry} does not answer, and no other node gives {what}")


def _with_sizes_of_most(image: ImageManifest, survey: Survey) -> bytes | None:
    """A manifest by diff IDs with other sizes, where its giver is alone with what it says of them.

    None where it is not, which is as good as always.
    """
    layers = []
    for said, facts in zip(image.layers, survey.layers, strict=True):
        is_tar = said.raw == facts.diff_id and facts.tar_bytes is not None
        layers.append(unpacked_layer(said.raw, facts.tar_bytes or 0) if is_tar else said)
    if [layer.size for layer in layers] == [layer.size for layer in image.layers]:
        return None
    return schema_2_manifest(image.config, layers)


def _with_replaced(data: bytes, chosen: Descriptor | None, manifest: bytes) -> bytes:
    """An index with one of its manifests replaced by another for the same platform."""
    assert chosen is not None
    document = msgspec.json.decode(data)
    for row in document["manifests"]:
        if row.get("digest") == chosen.digest:
            row.update(
                digest=digest_text(digest_of(manifest)),
                size=len(manifest),
                mediaType=DOCKER_MANIFEST,
            )
    return msgspec.json.encode(document)
