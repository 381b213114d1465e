"""Rebuilds a layer's tar, bit for bit, from its unpacked files and Docker's tar-split file.

``tar-split.json.gz`` has a line of JSON for each piece of the tar. Type 2 carries bytes of the
archive itself: headers and padding. Type 1 stands for the content of a file. The sizes give the
offset of each piece, so a range is read without rebuilding the bytes before it.

The readers of Docker's graph driver call it. Source: vbatts/tar-split, tar/storage/entry.go.
"""

import gzip
import os
import stat
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from beiran.errors import DataError

CHUNK_BYTES: Final = 2**20
"""Bytes per read of a file. Larger reads cost memory, smaller ones calls; chosen, not measured."""
PIECES_MAX: Final = 20_000_000
"""Two pieces a file: 10 million files in a layer. At 16 bytes a piece it bounds the offsets to
320 MB. Chosen, not measured."""
LINE_BYTES_MAX: Final = 16 * 2**20
"""The padding at the end of an archive is one line: 10 KiB from Docker, more from some builders.
The limit bounds the memory that a broken file can take; chosen, not measured."""
_BLOCK_BYTES: Final = 256 * 1024
"""Bytes compressed together. A range decompresses at least one block: larger blocks compress
better, smaller ones are read faster. Chosen, not measured."""
_FILE: Final = 1  # tar-split FileType
_RAW: Final = 2  # tar-split SegmentType


class _Entry(Struct):
    """A line of tar-split.json."""

    type: int
    name: str = ""
    name_raw: bytes = b""
    size: int = 0
    payload: bytes | None = None


class _Size(Struct):
    """The fields of a line of tar-split.json that give its number of bytes."""

    type: int
    size: int = 0
    payload: str | None = None


def tar_bytes(path: Path) -> int:
    """Compute the size of the tar that the tar-split file at ``path`` describes.

    Raises: DataError.
    """
    decoder = msgspec.json.Decoder(_Size)
    total = 0
    try:
        with gzip.open(path, "rb") as lines:
            while line := lines.readline(LINE_BYTES_MAX):
                entry = decoder.decode(line)
                if entry.type == _RAW:
                    text = entry.payload or ""
                    total += len(text) // 4 * 3 - text[-2:].count("=")
                else:
                    total += max(entry.size, 0)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return total


class TarSplit:
    """The offsets of the pieces of a layer's tar, and the archive's own bytes.

    These bytes stay compressed in memory: a layer of 50,000 files has about 50 MB of headers, and a
    range needs a few of them.
    """

    def __init__(self, path: Path) -> None:
        """Read the tar-split file at ``path``. Raises: DataError."""
        self._starts = array("q")
        self._raw_starts = array("q")  # offset in the archive's bytes; -1 - number for a file
        self._names: list[bytes] = []
        self._blocks: list[bytes] = []
        self.size_bytes = 0
        self._last_block = (-1, b"")
        try:
            self._read(path)
        except (OSError, EOFError, zlib.error, msgspec.DecodeError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None

    @property
    def memory_bytes(self) -> int:
        """Estimated memory of this object, with 40 bytes of overhead for each name."""
        names = sum(map(len, self._names)) + 40 * len(self._names)
        return names + sum(map(len, self._blocks)) + 16 * len(self._starts) + _BLOCK_BYTES

    def _read(self, path: Path) -> None:
        decoder = msgspec.json.Decoder(_Entry)
        raw = bytearray()
        raw_bytes = 0
        with gzip.open(path, "rb") as lines:
            while line := lines.readline(LINE_BYTES_MAX):
                entry = decoder.decode(line)
                if entry.type == _RAW:
                    size = len(entry.payload or b"")
                    self._add(raw_bytes, size)
                    raw += entry.payload or b""
                    raw_bytes += size
                    while len(raw) >= _BLOCK_BYTES:
                        self._blocks.append(zlib.compress(raw[:_BLOCK_BYTES], 1))
                        del raw[:_BLOCK_BYTES]
                elif entry.type == _FILE and entry.size > 0:
                    name = entry.name_raw or entry.name.encode()
                    self._names.append(name)
                    self._add(-len(self._names), entry.size)
                elif entry.type != _FILE or entry.size < 0:
                    raise ValueError("an entry that is neither a file nor archive bytes")
        self._blocks.append(zlib.compress(raw, 1))

    def _add(self, raw_start: int, size: int) -> None:
        if size == 0:
            return
        if len(self._starts) >= PIECES_MAX:
            raise ValueError(f"more than {PIECES_MAX} pieces")
        self._starts.append(self.size_bytes)
        self._raw_starts.append(raw_start)
        self.size_bytes += size

    def pieces(self, start: int, end: int) -> Iterator[tuple[bytes | None, int, int, int]]:
        """The pieces of the range from ``start`` to ``end``, in order.

        Yields: the name of a file, or None for bytes of the archive; the piece's first and last
        offset in it; the size of the whole file, or 0 for the archive.
        """
        index = bisect_right(self._starts, start) - 1
        while start < end:
            piece_start = self._starts[index]
            last = index + 1 == len(self._starts)
            piece_end = self.size_bytes if last else self._starts[index + 1]
            stop = min(end, piece_end)
            first, raw_start = start - piece_start, self._raw_starts[index]
            if raw_start < 0:
                name = self._names[-raw_start - 1]
                yield name, first, stop - piece_start, piece_end - piece_start
            else:
                yield None, raw_start + first, raw_start + stop - piece_start, 0
            start = stop
            index += 1

    def raw(self, start: int, end: int) -> Iterator[bytes]:
        """Decompress bytes of the archive itself, at offsets that ``pieces`` yields."""
        while start < end:
            number, first = divmod(start, _BLOCK_BYTES)
            cached, block = self._last_block
            if cached != number:
                block = zlib.decompress(self._blocks[number])
                self._last_block = (number, block)
            found = block[first : first + end - start]
            yield found
            start += len(found)


class UnpackedTar:
    """The tar of a layer whose files are in a folder. A ``verified_reader.TarSource``."""

    def __init__(self, notes: TarSplit, folder: Path, identity: Hashable) -> None:
        self._notes = notes
        self._folder = folder
        self.size_bytes = notes.size_bytes
        self.identity = identity

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Read a range. Joins small files into chunks of about half of ``CHUNK_BYTES``."""
        gathered: list[bytes] = []
        gathered_bytes = 0
        files = _Files(self._folder)
        try:
            for name, first, stop, size in self._notes.pieces(start, end):
                found = self._notes.raw(first, stop)
                if name is not None:
                    found = files.read(name, first, stop, size)
                for data in found:
                    gathered.append(data)
                    gathered_bytes += len(data)
                    if gathered_bytes >= CHUNK_BYTES // 2:
                        yield b"".join(gathered) if len(gathered) > 1 else data
                        gathered, gathered_bytes = [], 0
        except OSError as error:
            raise DataError(f"a layer's files cannot be read: {error}") from None
        finally:
            files.close()
        if gathered:
            yield b"".join(gathered)

    def close(self) -> None:
        """Do nothing: ``read`` closes the files that it opens."""


class _Files:
    """Opens files below a folder. Never follows a symlink: it could lead out of the layer."""

    _FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent: tuple[bytes, ...] = ()
        self._parent_fd = os.dup(self._folder)

    def read(self, name: bytes, start: int, end: int, size: int) -> Iterator[bytes]:
        """Read from ``start`` to ``end`` of a file. Raises: DataError if its size is not ``size``.

        A file of another size was changed after Docker unpacked it.
        """
        *parent, last = _components(name)
        if tuple(parent) != self._parent:
            self._enter(tuple(parent))
        fd = os.open(last, self._FLAGS, dir_fd=self._parent_fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                raise DataError(f"{os.fsdecode(name)} in a layer has changed since it was unpacked")
            while start < end:
                data = os.pread(fd, min(CHUNK_BYTES, end - start), start)
                if not data:
                    raise DataError(f"{os.fsdecode(name)} in a layer became shorter during a read")
                yield data
                start += len(data)
        finally:
            os.close(fd)

    def _enter(self, parent: tuple[bytes, ...]) -> None:
        """Open the folder ``parent`` one component at a time, so that no symlink is followed."""
        fd = os.dup(self._folder)
        try:
            for component in parent:
                inner = os.open(component, self._FLAGS | os.O_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
        except OSError:
            os.close(fd)
            raise
        os.close(self._parent_fd)
        self._parent, self._parent_fd = parent, fd

    def close(self) -> None:
        """Close the open folders."""
        os.close(self._parent_fd)
        os.close(self._folder)


def _components(name: bytes) -> list[bytes]:
    """Split a name in a tar into components. Raises: DataError if it leads out of the layer."""
    found: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            if not found:
                raise DataError(f"a layer names a file outside its folder: {os.fsdecode(name)}")
            found.pop()
        elif component not in (b"", b"."):
            found.append(component)
    if not found or b"\0" in name:
        raise DataError(f"a layer has a file without a name: {os.fsdecode(name)!r}")
    return found
