"""The Docker Engine as an engine: a session while it answers, and a new one after a pause.

Both of its image stores are known. In a graph driver's an image's ID is its config digest; in
containerd's it is the digest of a manifest or an index, behind which the config is looked up.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from msgspec.structs import replace
from typing_extensions import override

from beiran.api.models import EngineInfo
from beiran.engine.docker.docker_client import first_error
from beiran.engine.docker.load import archive
from beiran.engine.docker.session import RELIST_S, DockerSession, open_session
from beiran.engine.interface import (
    FIND_BLOBS_MAX,
    BlobReader,
    Engine,
    EngineDown,
    EngineNews,
    ImageToLoad,
    LayerReader,
    Manifest,
    PullProgress,
)
from beiran.engine.layers.blob_reader import BlobReaders
from beiran.engine.layers.sizes import LayerSizes
from beiran.engine.layers.verified_reader import LayerReaders, TarSource
from beiran.errors import EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text

RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 5.0
"""A Docker that restarts is found within this time; asking costs it next to nothing. Chosen."""


class DockerEngine(Engine):
    """The Docker Engine at an address, which need not answer yet.

    Args:
      address: a socket's path, ``tcp://``, ``ssh://`` or ``context:NAME`` (``find_endpoint``).
      sizes_file: keeps the sizes of layers that lie compressed (containerd's store).
      read_data_root: whether to read the engine's files where that is possible; without them
        sizes come from histories, and layers from ``docker save``.
      relist_s: seconds between full lists.
    """

    def __init__(
        self,
        address: str,
        *,
        sizes_file: Path | None = None,
        read_data_root: bool = True,
        relist_s: float = RELIST_S,
    ) -> None:
        self._address: Final = address
        self._read_data_root: Final = read_data_root
        self._relist_s: Final = relist_s
        self._sizes: Final = LayerSizes(sizes_file)
        self._readers: Final = LayerReaders()
        self._blobs: Final = BlobReaders(self._readers, self._open_source)
        self._info = EngineInfo(kind="docker", up=False)
        self._session: DockerSession | None = None

    @property
    @override
    def info(self) -> EngineInfo:
        return self._info

    @override
    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        await self._sizes.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sizes.serve)
            nursery.start_soon(self._blobs.serve)
            retry_s = RETRY_S_MIN
            reported_down = False
            while True:
                reason = await self._follow(news)
                if self._info.up:
                    self._info = replace(self._info, up=False)
                    retry_s, reported_down = RETRY_S_MIN, False
                if not reported_down:
                    await news.send(EngineDown(reason))
                    reported_down = True
                await trio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)

    async def _follow(self, news: trio.MemorySendChannel[EngineNews]) -> str:
        """Pass on the changes of one session; returns the reason of its end."""
        try:
            async with open_session(
                self._address,
                self._sizes,
                read_data_root=self._read_data_root,
                relist_s=self._relist_s,
            ) as session:
                self._session, self._info = session, session.info
                async with aclosing(session.changes()) as changes:
                    async for change in changes:
                        await news.send(change)
        except* EngineUnavailable as group:
            reason = str(first_error(group))
        finally:
            self._session = None
        return reason

    def _up(self) -> DockerSession:
        """The session. Raises: EngineUnavailable."""
        if self._session is None:
            raise EngineUnavailable(f"Docker at {self._address} does not answer")
        return self._session

    @asynccontextmanager
    @override
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        session = self._up()
        place = session.rows.index().by_layer.get(digest)
        if place is None:
            raise NotFound("LAYER_UNKNOWN", f"this engine has no layer {digest_text(digest)}")
        tar = await session.store.open_tar(place, digest)
        with self._readers.open(digest, tar) as reader:
            yield reader

    @override
    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        session = self._session
        if session is None:
            return {}
        wanted = [each for each in digests[:FIND_BLOBS_MAX] if not self._blobs.is_damaged(each)]
        index = session.rows.index()
        return await trio.to_thread.run_sync(session.store.find_blobs, wanted, index)

    @override
    def open_blob(self, digest: Digest) -> AbstractAsyncContextManager[BlobReader]:
        return self._blobs.open(digest)

    async def _open_source(self, digest: Digest) -> TarSource:
        session = self._up()
        return await session.store.open_source(digest, session.rows.index())

    @override
    async def manifest(self, digest: Digest) -> Manifest | None:
        session = self._session
        if session is None:
            return None
        return await trio.to_thread.run_sync(session.store.manifest, digest)

    @override
    async def image_manifest(self, image: Digest) -> Manifest | None:
        session = self._up()
        place = session.rows.index().by_config.get(image)
        return None if place is None else await session.store.image_manifest(place)

    @override
    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        session = self._session
        if session is None:
            return list(diff_ids)
        index = session.rows.index()
        return await trio.to_thread.run_sync(session.store.missing_layers, diff_ids, index)

    @override
    async def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        session = self._session
        if session is None:
            return set()
        return await trio.to_thread.run_sync(session.store.knows_compressed, layers)

    @override
    async def load(self, image: ImageToLoad) -> None:
        session = self._up()
        index = session.rows.index()
        files = await trio.to_thread.run_sync(session.store.files_to_load, image, index)
        async with aclosing(archive(files)) as pieces:
            await session.client.load(pieces)

    @property
    @override
    def keeps_compressed_blobs(self) -> bool:
        return self._session is not None and self._session.store.keeps_compressed_blobs

    @property
    @override
    def can_pull(self) -> bool:
        return True

    @override
    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        await self._up().client.pull(reference, platform, progress)

    @override
    async def tag(self, image: Digest | str, name: str) -> None:
        if not isinstance(image, str):
            place = self._up().rows.index().by_config.get(image)
            # What came a moment ago may not be listed yet; on a graph driver that is its ID.
            image = digest_text(image) if place is None else place.image_id
        await self._up().client.tag(image, name)

    @override
    async def untag(self, name: str) -> None:
        await self._up().client.untag(name)
