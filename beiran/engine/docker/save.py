"""The archive of ``docker save``, unpacked: for engines whose files cannot be read here.

Its layout differs between releases and stores, but all configs, manifests and layers are found by
their SHA-256: each file is kept under that, as in an OCI image layout.
"""

import hashlib
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Final, TypeVar

import trio
from urllib3.exceptions import HTTPError

from beiran.engine.content_store import DOCUMENT_BYTES_MAX, BlobFolder
from beiran.engine.docker.docker_client import DockerClient
from beiran.errors import EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text

KEPT_S: Final = 120.0
"""A saved layer takes disk space this long after its last use: ranges are read in rows."""
_COPY_BYTES: Final = 2**20

S = TypeVar("S")


@asynccontextmanager
async def saved_image(
    client: DockerClient, image_id: str, wanted: Collection[Digest] | None = None
) -> AsyncIterator[BlobFolder]:
    """The blobs of an image from ``docker save``, in a folder that is removed on the way out.

    Args:
      wanted: keep these (and small files), and stop when all are there; None keeps everything.

    Raises: NotFound; EngineUnavailable, also when the archive cannot be read or stored.
    """
    with tempfile.TemporaryDirectory(prefix="beiran-save-") as folder:
        blobs = BlobFolder(Path(folder))
        blobs.blobs.mkdir(parents=True)
        writing = Lock()

        def keep_files(pieces: Iterator[bytes]) -> None:
            with writing:
                _keep_files(_Pieces(pieces), blobs, wanted)

        try:
            async with client.image_archive(image_id) as pieces:
                await trio.to_thread.run_sync(keep_files, pieces, abandon_on_cancel=True)
        finally:
            # The client has shut the socket down, so a cancelled thread ends. Then the folder goes.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(writing.acquire)
        yield blobs


class _Pieces:
    """An iterator of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _keep_files(pieces: _Pieces, blobs: BlobFolder, wanted: Collection[Digest] | None) -> None:
    """Keep the files of an archive by their digests, until all that is wanted is there."""
    missing = set(wanted or ())
    try:
        with tarfile.open(fileobj=pieces, mode="r|", bufsize=_COPY_BYTES) as tar:  # type: ignore[call-overload]
            while (wanted is None or missing) and (entry := tar.next()) is not None:
                tar.members.clear()
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is None:
                    continue
                part = blobs.folder / "part"
                digest = _copy(content, part)
                if wanted is None or digest in missing or entry.size <= DOCUMENT_BYTES_MAX:
                    part.rename(blobs.path(digest))
                missing.discard(digest)
    except (tarfile.TarError, HTTPError, OSError) as error:
        raise EngineUnavailable(f"what docker save gives cannot be kept: {error}") from None


def _copy(content: IO[bytes], to: Path) -> Digest:
    """Copy a file. Returns: its SHA-256."""
    sha256 = hashlib.sha256()
    with to.open("wb") as file:
        while data := content.read(_COPY_BYTES):
            sha256.update(data)
            file.write(data)
    return Digest(sha256.digest())


class SavedLayers:
    """The blob that was saved last, kept for ``KEPT_S``."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._lock = trio.Lock()
        self._blob: Digest | None = None
        self._file: IO[bytes] | None = None  # has no name: it goes when it is closed
        self._used_at = 0.0

    async def open(self, image_id: str, blob: Digest, open_source: Callable[[Path], S]) -> S:
        """Open the file that holds ``blob`` of an image with ``open_source``.

        Raises: NotFound; EngineUnavailable; DataError.
        """
        async with self._lock:
            if self._blob != blob or self._file is None:
                self._forget()
                async with saved_image(self._client, image_id, [blob]) as blobs:
                    if not blobs.has(blob):
                        raise NotFound("LAYER_UNKNOWN", f"docker save gives no {digest_text(blob)}")
                    self._file = blobs.path(blob).open("rb")
                    self._blob = blob
            self._used_at = trio.current_time()
            return open_source(Path(f"/proc/self/fd/{self._file.fileno()}"))

    async def serve(self) -> None:
        """Remove the blob when it has not been used for ``KEPT_S``; for ever."""
        try:
            while True:
                await trio.sleep(KEPT_S / 2)
                if trio.current_time() - self._used_at > KEPT_S:
                    self._forget()
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._blob = None
