"""The interface of an engine. ``tests/engine`` runs one contract suite against each engine."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from msgspec import Struct

from beiran.api.models import EngineInfo
from beiran.ids import Digest
from beiran.oci.images import Holding, ImageDescription
from beiran.oci.manifests import digest_of

FIND_BLOBS_MAX: Final = 1000
"""Digests in one call: an image has at most 127 layers, and peers ask for several images."""
ENGINE_USER_AGENTS: Final = ("docker/", "containerd/")  # moby dockerversion/useragent.go


def is_engine_client(user_agent: str) -> bool:
    """Whether an HTTP client that asks the mirror is an engine, by its ``User-Agent``.

    The engine of this host need not be one that this agent watches: with ``--engine none`` Docker
    may still pull through the mirror.
    """
    return user_agent.startswith(ENGINE_USER_AGENTS)


class EngineImage(Struct, frozen=True):
    """An image that the engine holds."""

    description: ImageDescription
    holding: Holding


class EngineUp(Struct, frozen=True):
    """The engine answers. ``ImagesListed`` follows."""

    info: EngineInfo


class EngineDown(Struct, frozen=True):
    """The engine does not answer, for ``reason`` (one line). ``EngineUp`` comes when it does."""

    reason: str


class ImagesListed(Struct, frozen=True):
    """All images that the engine holds. An image that is missing here is gone."""

    images: tuple[EngineImage, ...]


class ImageChanged(Struct, frozen=True):
    """An image appeared, or its names changed."""

    image: EngineImage


class ImageGone(Struct, frozen=True):
    """The engine no longer holds an image."""

    image: Digest


EngineNews = EngineUp | EngineDown | ImagesListed | ImageChanged | ImageGone


class LayerReader(Protocol):
    """An open layer: its uncompressed tar, bit for bit as its diff ID says."""

    size_bytes: int
    """Length of the tar."""

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` (included) to ``end`` (excluded), in order, in chunks of any size.

        Raises: DataError when what is on disk turns out not to be that layer. When the whole tar
        is read, the error comes before the last chunk.
        """
        ...


class FileRange(Struct, frozen=True):
    """Where in an open file something begins. The descriptor is its owner's, who closes it.

    Attributes:
      checked: the file contains nothing else, its digest was verified while it was written, and
        it no longer changes: an engine that keeps files may link it instead of copying.
    """

    descriptor: int
    start: int
    checked: bool = False


class BlobReader(Protocol):
    """An open blob: a config, a manifest, or a layer as a compressed blob or as its tar.

    Bytes come as they are on the disk: the receiver of a blob verifies its digest. An engine
    verifies each blob that it gives once, in the background, and stops giving a damaged one.
    """

    @property
    def size_bytes(self) -> int:
        """Length of the blob."""
        ...

    @property
    def file(self) -> FileRange | None:
        """Where the blob lies in a file as it is, so that it can be sent with ``sendfile``.

        None where it is put together, and only ``chunks`` gives it.
        """
        ...

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` (included) to ``end`` (excluded), in order, in chunks of any size.

        Raises: DataError when what is on disk turns out not to be that blob; ValueError for a
        range that is not in it.
        """
        ...


class Manifest(Struct, frozen=True):
    """A manifest or an index, byte for byte."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> Digest:
        """SHA-256 of ``data``."""
        return digest_of(self.data)


@dataclass(frozen=True, slots=True)
class LayerToLoad:
    """A layer of an image that an engine is to hold.

    Attributes:
      diff_id: of its tar.
      blob: its tar or a compressed form of it, open until ``load`` returns; None where
        ``missing_layers`` says that the engine has the layer.
      digest: of ``blob``; None when ``blob`` is the tar.
      media_type: of ``blob``; empty when it is the tar.
    """

    diff_id: Digest
    blob: BlobReader | None = None
    digest: Digest | None = None
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class ImageToLoad:
    """An image that an engine is to hold, with the layers that it lacks.

    Attributes:
      config: its bytes.
      layers: all of them, the base first.
      tags: whole names (``docker.io/library/a:1``) that it is to have; those on others move.
      manifest: as published. A graph driver has no use for it; containerd's store and a layout keep
        it where all blobs that it names are there or given, and make one otherwise.
    """

    config: bytes
    layers: tuple[LayerToLoad, ...]
    tags: tuple[str, ...] = ()
    manifest: Manifest | None = None


class PullProgress(Struct, frozen=True):
    """A step of a pull, as the engine reports it.

    Attributes:
      layer: the first digits of a layer's digest; empty where it is about the whole.
      status: as the engine words it (``Downloading``, ``Already exists``, …).
      done_bytes, total_bytes: of this layer in this step; 0 if the engine does not report them.
    """

    layer: str
    status: str
    done_bytes: int = 0
    total_bytes: int = 0


class Engine(Protocol):
    """Where images live."""

    @property
    def info(self) -> EngineInfo:
        """Its kind, version and store; ``up`` is False while it does not answer."""
        ...

    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        """Report everything that happens, for ever; an engine that is away raises nothing.

        First ``EngineUp`` and ``ImagesListed``, then changes as the engine has them, and a
        fresh ``ImagesListed`` every few minutes for what was missed. Where layers must be read to
        know their sizes, large images may come as changes soon after the first list.
        """
        ...

    def open_layer(self, digest: Digest) -> AbstractAsyncContextManager[LayerReader]:
        """Open the layer with this diff ID.

        Raises: NotFound when the engine does not have it (or its data cannot be read here);
        EngineUnavailable; DataError when it is damaged.
        """
        ...

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        """The blobs that it can give now out of ``digests``, with their sizes in bytes.

        Configs, manifests, compressed layers where the engine keeps them, and layers' tars by diff
        ID. Cheap: answered for ``FIND_BLOBS_MAX`` digests at once. A tar whose length would have to
        be found out by reading all of it is left out until that is done (``image_manifest`` does).
        Nothing while the engine is away.
        """
        ...

    def open_blob(self, digest: Digest) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob that ``find_blobs`` finds.

        Raises: NotFound when it is not there; EngineUnavailable; DataError when it is damaged.
        """
        ...

    async def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest or index with this digest, where the engine keeps it."""
        ...

    async def image_manifest(self, image: Digest) -> Manifest | None:
        """A manifest for the image with this config, all blobs of which this engine can give.

        As published, or as the engine has it, where it keeps manifests; else by diff IDs.
        None when it does not have the image.

        Raises: EngineUnavailable; DataError.
        """
        ...

    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        """The layers of an image that ``load`` needs, out of all its diff IDs, the base first.

        A graph driver has a layer only together with all that is below it.
        """
        ...

    async def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """The compressed layers that the engine would not request from a registry in a pull.

        Args:
          layers: diff IDs by the digests of the compressed blobs, the base first: all of an image.

        Empty if that cannot be found out.
        """
        ...

    async def load(self, image: ImageToLoad) -> None:
        """Take in an image.

        Raises: EngineRefused when the engine does not take it (a layer is missing, or not what its
        diff ID says), or cannot take any; EngineUnavailable; DataError from the readers.
        """
        ...

    @property
    def keeps_compressed_blobs(self) -> bool:
        """Whether a pull by this engine stores the blobs that the manifest names.

        containerd's image store does, and asks for each of them. A graph driver stores the
        unpacked layers only, and asks for no blob of a layer that it has.
        """
        ...

    @property
    def can_pull(self) -> bool:
        """Whether the engine pulls from registries itself. If not, ``pull`` refuses."""
        ...

    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        """Have the engine pull ``reference`` (``127.0.0.1:8880/library/a:1``, or ``…@sha256:…``).

        Args:
          platform: ``linux/arm64``; the engine's own when None.
          progress: called with each step that the engine reports.

        Cancelling stops the engine too.

        Raises: EngineRefused with its reason; EngineUnavailable.
        """
        ...

    async def tag(self, image: Digest | str, name: str) -> None:
        """Give an image (by its config's digest, or by a name it has) another name.

        The name moves from the image that had it. ``name`` is whole, with a tag.

        Raises: NotFound; EngineRefused; EngineUnavailable.
        """
        ...

    async def untag(self, name: str) -> None:
        """Take a name, with a tag or a digest, from its image.

        A name that is not there is no error. Docker removes an image with its last name.

        Raises: EngineRefused; EngineUnavailable.
        """
        ...
