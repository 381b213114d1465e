"""Compressed blobs as streams that can stop, continue and, for gzip, go back.

A range of a compressed layer needs everything before it decompressed. Peers ask for piece after
piece, out of order, each in a request of its own. So a stream that has given its range is kept
where it stopped. Of a gzip stream, copies are kept on the way: zlib can copy its state, a window of
32 KiB and a little more. zstd cannot, and has larger windows.
"""

import os
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator, Hashable
from typing import Final, NamedTuple, Protocol

import zstandard

CHUNK_BYTES: Final = 2**20
INPUT_BYTES: Final = 256 * 1024
ZSTD_WINDOW_BYTES_MAX: Final = 128 * 2**20  # what `zstd -d` allows without --long

MARK_BYTES: Final = 8 * 2**20
"""Distance of the first copies of a gzip stream, in bytes of its tar: 30 ms to decompress."""

MARKS_MAX: Final = 64
"""Copies of one stream, some 45 KB each; when there would be more, every second one goes."""

LAYERS_MAX: Final = 8
"""Blobs with kept streams: as many as are read at once (``READS_AT_ONCE``)."""

STOPPED_MAX: Final = 4
"""Streams kept where they stopped, of all layers; zstd takes 8 MiB for each, or its window."""


class File:
    """A file read from a position of its own through a shared descriptor."""

    def __init__(self, descriptor: int, position: int = 0) -> None:
        self.descriptor = descriptor
        self.position = position

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """The next bytes; none at its end."""
        data = os.pread(self.descriptor, size, self.position)
        self.position += len(data)
        return data


class TarStream(Protocol):
    """An uncompressed tar, from some position on."""

    file: File
    position: int
    """Offset of the next byte in the tar."""

    def read(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; none at the end.

        Raises: EOFError, zlib.error, zstandard.ZstdError, OSError.
        """
        ...


class GzipStream:
    """The content of gzip members: several in a row (pigz, eStargz), then padding."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.position = 0
        self._member = zlib.decompressobj(wbits=31)
        self._data = b""

    def copy(self) -> "GzipStream | None":
        """A stream that continues from here on its own; None if it would keep much input."""
        if self._data:
            return None
        other = GzipStream.__new__(GzipStream)
        other.file = File(self.file.descriptor, self.file.position)
        other.position = self.position
        other._member = self._member.copy()
        other._data = b""
        return other

    def read(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; none at the end."""
        while True:
            data = self._data or self.file.read(INPUT_BYTES)
            if self._member.eof:
                if not data.strip(b"\0"):
                    if not data:
                        return b""
                    self._data = b""
                    continue
                self._member = zlib.decompressobj(wbits=31)
            chunk = self._member.decompress(data, CHUNK_BYTES)
            self._data = (
                self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            )
            if chunk:
                self.position += len(chunk)
                return chunk
            if not data and not self._member.eof:
                raise EOFError("it ends in the middle")


class ZstdStream:
    """The content of zstd frames."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.position = 0
        zstd = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        self._frames = zstd.stream_reader(file, read_across_frames=True)  # type: ignore[arg-type]

    def read(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; none at the end."""
        chunk: bytes = self._frames.read(CHUNK_BYTES)
        self.position += len(chunk)
        return chunk


class PlainStream:
    """A tar that is not compressed."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.position = 0

    def read(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; none at the end."""
        chunk = self.file.read(CHUNK_BYTES)
        self.position += len(chunk)
        return chunk


class _Stopped(NamedTuple):
    """A stream, and its last chunk, which may reach beyond the range that was read."""

    stream: TarStream
    last: bytes

    @property
    def first(self) -> int:
        """The position of the first byte it can give."""
        return self.stream.position - len(self.last)


class _Layer:
    """The kept streams of one blob."""

    def __init__(self) -> None:
        self.spacing_bytes = MARK_BYTES
        self.marks: list[GzipStream] = []  # by position
        self.stopped: list[_Stopped] = []  # the longest ago first


class TarStreams:
    """Kept streams of several blobs. Threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layers: OrderedDict[Hashable, _Layer] = OrderedDict()

    def read(
        self, identity: Hashable, fresh: TarStream, start: int, end: int
    ) -> Generator[bytes, None, None]:
        """The bytes of a tar from ``start`` to ``end``, or to its own end, in chunks.

        Args:
          identity: of the blob: changes when its file does.
          fresh: a stream that stands at the beginning, used where there is none that is nearer.

        Raises: what ``TarStream.read`` does.
        """
        stream, chunk = self._nearest(identity, fresh, start)
        stream.file.descriptor = fresh.file.descriptor
        try:
            while start < end:
                first = stream.position - len(chunk)
                found = chunk[max(start - first, 0) : end - first]
                if found:
                    start += len(found)
                    yield found
                else:
                    chunk = b""  # or it would be kept if this fails
                    chunk = stream.read()
                    if not chunk:
                        return
                    self._mark(identity, stream)
        finally:
            if chunk:
                self._keep(identity, _Stopped(stream, chunk))

    def _nearest(self, identity: Hashable, fresh: TarStream, start: int) -> _Stopped:
        with self._lock:
            layer = self._layers.setdefault(identity, _Layer())
            self._layers.move_to_end(identity)
            while len(self._layers) > LAYERS_MAX:
                self._layers.popitem(last=False)
            fitting = [stopped for stopped in layer.stopped if stopped.first <= start]
            best = max(fitting, key=lambda stopped: stopped.first, default=None)
            index = bisect_right(layer.marks, start, key=lambda mark: mark.position)
            mark = layer.marks[index - 1] if index else None
            if mark is not None and (best is None or mark.position > best.first):
                return _Stopped(mark.copy() or fresh, b"")
            if best is None:
                return _Stopped(fresh, b"")
            layer.stopped.remove(best)
            return best

    def _keep(self, identity: Hashable, stopped: _Stopped) -> None:
        with self._lock:
            layer = self._layers.get(identity)
            if layer is None:
                return
            layer.stopped.append(stopped)
            count = sum(len(each.stopped) for each in self._layers.values())
            for each in self._layers.values():  # the layer that was asked for longest ago first
                while each.stopped and count > STOPPED_MAX:
                    del each.stopped[0]
                    count -= 1

    def _mark(self, identity: Hashable, stream: TarStream) -> None:
        """Keep a copy of a stream that has come far enough from the last one."""
        if not isinstance(stream, GzipStream):
            return
        with self._lock:
            layer = self._layers.get(identity)
            if layer is None:
                return
            marks = layer.marks
            if stream.position < (marks[-1].position if marks else 0) + layer.spacing_bytes:
                return
            copy = stream.copy()
            if copy is None:
                return
            marks.append(copy)
            if len(marks) > MARKS_MAX:
                del marks[::2]
                layer.spacing_bytes *= 2
