"""Layers that lie in a folder as blobs: plain tars, or compressed with gzip or zstd."""

import hashlib
import io
import os
import posixpath
import stat
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from beiran.engine.content_store import LayerBlob
from beiran.engine.layers.decompression import (
    CHUNK_BYTES,
    File,
    GzipStream,
    PlainStream,
    TarStream,
    TarStreams,
    ZstdStream,
)
from beiran.errors import DataError
from beiran.ids import digest_text

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"

_STREAMS: Final = TarStreams()
"""Of all blobs of this process, since each request for a range opens its layer anew."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A layer as found by reading all of it."""

    files_bytes: int
    """Bytes of the files in it, as ``docker history`` shows them."""
    tar_bytes: int
    """Length of its uncompressed tar."""


def open_blob(path: Path) -> int:
    """A descriptor of the regular file at ``path``. Raises: DataError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DataError(f"{path} is not a file")
    return fd


def read_range(fd: int, path: Path, start: int, end: int) -> Iterator[bytes]:
    """The bytes of an open file, in chunks of at most ``CHUNK_BYTES``.

    Raises: DataError when it cannot be read, or ends before ``end``.
    """
    while start < end:
        try:
            data = os.pread(fd, min(CHUNK_BYTES, end - start), start)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        if not data:
            raise DataError(f"{path} ends at byte {start} where {end} are due")
        yield data
        start += len(data)


def is_compressed(fd: int) -> bool:
    """Whether a blob is compressed, by its first bytes: media types are often wrong."""
    return os.pread(fd, 4, 0).startswith((_GZIP_MAGIC, _ZSTD_MAGIC))


def read_tar(fd: int, name: str) -> Generator[bytes, None, None]:
    """The uncompressed tar of a layer, in chunks of at most ``CHUNK_BYTES``.

    Args:
      fd: its blob, open for reading.
      name: of the blob, for errors.

    Raises: DataError when it cannot be decompressed, or ends too early.
    """
    stream = _stream(fd)
    with _decompressing(name):
        yield from iter(stream.read, b"")


def _stream(fd: int) -> TarStream:
    """The tar in a blob, by the compression that its first bytes show."""
    magic = os.pread(fd, 4, 0)
    if magic.startswith(_GZIP_MAGIC):
        return GzipStream(File(fd))
    return ZstdStream(File(fd)) if magic == _ZSTD_MAGIC else PlainStream(File(fd))


@contextmanager
def _decompressing(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{name} cannot be decompressed: {error}") from None


class _HashedStream(io.RawIOBase):
    """A tar being read by ``tarfile``, hashed and counted on the way.

    It can be sought forward, so what is in the files goes by without being copied (``tarfile``'s
    own streams took half of the time).
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._used = 0  # bytes of the chunk that were read or passed over
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def tell(self) -> int:
        return self.size_bytes - len(self._chunk) + self._used

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """As files do: a position beyond the end is reached, and nothing can be read there."""
        if whence != os.SEEK_SET or position < self.tell():
            raise io.UnsupportedOperation("it only goes forward")
        while self.size_bytes < position and self._next_chunk():
            pass
        self._used = len(self._chunk) - max(self.size_bytes - position, 0)
        return position

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size > 0 and (self._used < len(self._chunk) or self._next_chunk()):
            part = self._chunk[self._used : self._used + size]
            self._used += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def digest(self) -> bytes:
        """SHA-256 of everything, which is read to its end."""
        while self._next_chunk():
            pass
        return self._sha256.digest()

    def _next_chunk(self) -> bytes:
        self._chunk = next(self._chunks, b"")
        self._used = 0
        self._sha256.update(self._chunk)
        self.size_bytes += len(self._chunk)
        return self._chunk


def measure(layer: LayerBlob, path: Path) -> Measured:
    """Read a layer once: the bytes of its files and of its tar.

    Raises: DataError when it is not the layer that its diff ID names.
    """
    fd = open_blob(path)
    try:
        with closing(read_tar(fd, str(path))) as chunks:
            stream = _HashedStream(chunks)
            files_bytes = _files_bytes(stream)
            if stream.digest() != layer.diff_id:
                raise DataError(f"{path} is not the layer {digest_text(layer.diff_id)}")
            return Measured(files_bytes, stream.size_bytes)
    finally:
        os.close(fd)


def _files_bytes(stream: _HashedStream) -> int:
    """Bytes of the files in a tar as they would lie on disk.

    Hard links count once, a symlink is as long as its target, whiteouts and devices are empty.
    Source: moby, pkg/directory (``Size``), which overlay2 asks after unpacking a layer.
    """
    sizes: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                name = posixpath.normpath("/" + entry.name)
                if entry.isreg() and "/.wh." not in name:
                    sizes[name] = entry.size
                elif entry.issym():
                    sizes[name] = len(os.fsencode(entry.linkname))
                else:
                    sizes.pop(name, None)
    except tarfile.TarError:
        # An empty layer may be no tar at all, and some end with bytes that are none. Its digest
        # says whether it is the layer; what was counted up to here is what is in it.
        pass
    return sum(sizes.values())


class BlobTar:
    """The tar of a layer that lies in a blob, a ``verified_reader.TarSource``.

    The blob stays readable until ``close``, also when it is removed from its folder.
    """

    def __init__(self, path: Path, tar_bytes: int | None = None) -> None:
        """Open the blob at ``path``; its tar's length is its own when ``tar_bytes`` is None.

        Raises: DataError when it cannot be read.
        """
        self._path = path
        self._fd = open_blob(path)
        self._compressed = is_compressed(self._fd)
        status = os.fstat(self._fd)
        self.size_bytes = status.st_size if tar_bytes is None else tar_bytes
        self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a range.

        A compressed blob is decompressed from its beginning, or from where a range before ended
        (``decompression``).
        """
        if self._compressed:
            yield from self._read_compressed(start, end)
            return
        yield from read_range(self._fd, self._path, start, end)

    def _read_compressed(self, start: int, end: int) -> Iterator[bytes]:
        with _decompressing(str(self._path)):
            for chunk in _STREAMS.read(self.identity, _stream(self._fd), start, end):
                yield chunk
                start += len(chunk)
        if start < end:
            raise DataError(f"{self._path} ends at byte {start} of its tar where {end} are due")

    def close(self) -> None:
        """Close the blob."""
        os.close(self._fd)
