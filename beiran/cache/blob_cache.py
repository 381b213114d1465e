"""The agent's blob cache: verified blobs as files, bounded; the least recently used are evicted.

``files`` has the layout of its folder. A blob gets its name in ``whole`` by a rename, after its
SHA-256 was checked and its bytes were synced. The folders are not synced: after a power failure the
last blobs may be missing, or be in flight again with all their bytes, but no blob is there with
wrong bytes. So opening the cache trusts names and sizes, and reads no blob.

The time of a blob's last use is its file's modification time, from a clock that never goes back, so
that the order of eviction survives a restart.

All methods are for the event loop's thread. Deleting and syncing run in other threads.
"""

import hashlib
import itertools
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import trio

from beiran.cache.errors import BlobMissing, BlobRefused, CacheFull
from beiran.cache.files import (
    FULL_ERRORS,
    BlobName,
    Entry,
    Found,
    Sidecar,
    delete_gone,
    scan,
    sidecar_path,
    write_file,
)
from beiran.cache.partial_blob import PartialBlob
from beiran.errors import LocalError
from beiran.ids import Digest, digest_text

THREADS_MAX: Final = 16
"""At once, for all blobs: writing, hashing pieces, deleting. As many as fetches run at a time;
trio's own limit of 40 is for all threads of the agent. Chosen."""

READ_BYTES_MAX: Final = 16 * 2**20
"""The largest blob that ``read`` takes into memory; manifests and configs have 4 MiB at most."""


class BlobFile:
    """A blob open for reading. It is not evicted until it is closed, and stays readable if removed.

    Attributes:
      descriptor: of the file, for ``pread`` and ``sendfile``; several readers may share it.
    """

    def __init__(
        self, digest: Digest, descriptor: int, size_bytes: int, closed: Callable[[], None]
    ) -> None:
        self.digest: Final = digest
        self.descriptor: Final = descriptor
        self.size_bytes: Final = size_bytes
        self._closed = closed
        self._open = True

    def __enter__(self) -> "BlobFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; does nothing the second time."""
        if self._open:
            self._open = False
            os.close(self.descriptor)
            self._closed()


class BlobCache:
    """Blobs by digest. ``BlobCache.open`` makes one."""

    def __init__(
        self, folder: Path, bytes_max: int, found: Found, evicted: Callable[[Digest], object]
    ) -> None:
        self.folder: Final = folder
        self._evicted: Final = evicted
        self.limiter = trio.CapacityLimiter(THREADS_MAX)
        self._bytes_max = bytes_max
        self._entries = OrderedDict(found.entries)  # the least recently used first
        self._used_bytes = sum(entry.size_bytes for entry in self._entries.values())
        self._last_used_ns = found.last_used_ns
        self._pins: Counter[Digest] = Counter()
        self._in_flight: dict[Digest, PartialBlob] = {}
        self._numbers = itertools.count()

    @classmethod
    async def open(
        cls,
        folder: Path,
        bytes_max: int,
        *,
        evicted: Callable[[Digest], object] = lambda _: None,
    ) -> "BlobCache":
        """Open the cache in ``folder``, or create it. Deletes damaged and unfinished files.

        Args:
          evicted: called with each whole blob that leaves the cache, so that it is no longer
            offered.

        Raises: LocalError when the folder cannot be used.
        """
        try:
            found = await trio.to_thread.run_sync(scan, folder)
        except OSError as error:
            raise LocalError(f"the blob cache {folder} cannot be used: {error.strerror}") from None
        cache = cls(folder, bytes_max, found, evicted)
        await cache.resize(bytes_max)
        return cache

    @property
    def used_bytes(self) -> int:
        """Bytes of all blobs. A blob in flight counts as if it were whole."""
        return self._used_bytes

    @property
    def digests(self) -> list[Digest]:
        """The whole blobs, the least recently used first."""
        return [digest for digest, entry in self._entries.items() if entry.whole]

    def size(self, digest: Digest) -> int | None:
        """Bytes of a whole blob; None without it. Does not count as a use."""
        entry = self._entries.get(digest)
        return entry.size_bytes if entry is not None and entry.whole else None

    def in_flight(self, digest: Digest) -> PartialBlob | None:
        """The blob while it is being fetched; else None."""
        partial = self._in_flight.get(digest)
        return None if partial is None or partial.closed or partial.verified else partial

    async def resize(self, bytes_max: int) -> None:
        """Set another bound, and evict what is beyond it and not in use."""
        self._bytes_max = bytes_max
        await self._drop(self._victims(self._used_bytes - bytes_max))

    def open_file(self, digest: Digest) -> BlobFile:
        """Open a whole blob, which counts as a use. The caller closes it.

        Raises: BlobMissing when the cache does not have it (any more).
        """
        entry = self._entries.get(digest)
        if entry is None or not entry.whole:
            raise BlobMissing(f"{digest_text(digest)} is not in the cache")
        try:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # deleted by another program
            self._forget(digest)
            raise BlobMissing(f"{digest_text(digest)} is no longer in the cache") from None
        except OSError as error:
            raise BlobMissing(f"{entry.path} cannot be read: {error.strerror}") from None
        self._use(digest, descriptor)
        self._pins[digest] += 1
        return BlobFile(digest, descriptor, entry.size_bytes, lambda: self._unpin(digest))

    async def read(self, digest: Digest) -> bytes:
        """The bytes of a small whole blob: a manifest, a config.

        Raises: BlobMissing when it is missing, unreadable, or larger than ``READ_BYTES_MAX``.
        """
        with self.open_file(digest) as file:
            if file.size_bytes > READ_BYTES_MAX:
                raise BlobMissing(f"{digest_text(digest)} is too large to read at once")
            try:
                return await trio.to_thread.run_sync(
                    os.pread, file.descriptor, file.size_bytes, 0, limiter=self.limiter
                )
            except OSError as error:
                raise BlobMissing(f"{digest_text(digest)}: {error.strerror}") from None

    @contextmanager
    def pin(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keep these blobs from being evicted, whether they are here or arrive meanwhile."""
        pinned = list(digests)
        self._pins.update(pinned)
        try:
            yield
        finally:
            for digest in pinned:
                self._unpin(digest)

    async def put(self, digest: Digest, data: bytes) -> None:
        """Add a small blob; if the cache has it, that counts as a use.

        Raises: BlobRefused when its SHA-256 is not ``digest``; CacheFull; OSError.
        """
        if hashlib.sha256(data).digest() != digest:
            raise BlobRefused(f"{len(data)} bytes are not {digest_text(digest)}")
        if self.size(digest) is not None:
            self._use(digest)
            return
        if len(data) > self._bytes_max:
            raise CacheFull(f"{len(data)} bytes are larger than the cache")
        self._room(len(data), digest)
        scratch = self._scratch_path()
        await self._write(scratch, data)
        try:
            victims = self._room(len(data), digest)
            if self.size(digest) is not None or digest in self._in_flight:
                return  # another task was faster, or is about to be
            # From here to the end of this block nothing else runs: the room is ours.
            self._set_aside([*victims, *([digest] if digest in self._entries else [])])
            path = self.folder / "whole" / str(BlobName(digest, len(data)))
            scratch.rename(path)
            self._add(digest, Entry(path, len(data), whole=True))
        finally:
            scratch.unlink(missing_ok=True)
        await self._empty_scratch()

    async def partial(self, digest: Digest, size_bytes: int) -> PartialBlob:
        """Begin to fetch a blob, or continue: a blob is in flight once, and keeps what it held
        before.

        Raises: BlobRefused when the cache has the blob, or has it in flight with another size;
        CacheFull; OSError.
        """
        while (going := self._in_flight.get(digest)) is not None and going.closed:
            await going.ended.wait()
        if going is not None and going.size_bytes == size_bytes and not going.verified:
            return going
        if going is not None or self.size(digest) is not None:
            raise BlobRefused(f"{digest_text(digest)} is here, or in flight with another size")
        old = self._entries.get(digest)
        victims: list[Digest] = []
        if old is None or old.size_bytes != size_bytes:
            victims = self._room(size_bytes, digest) + ([digest] if old is not None else [])
            old = None
        # From here to the end of this block nothing else runs: the room is ours.
        self._set_aside(victims)
        name = BlobName(digest, size_bytes)
        path = self.folder / "partial" / str(name)
        partial = PartialBlob(self, path, name, old.sidecar if old else None)
        self._in_flight[digest] = partial
        if old is None:
            self._add(digest, Entry(path, size_bytes, whole=False))
        else:
            self._use(digest)
        await self._empty_scratch()
        return partial

    async def remove(self, digest: Digest) -> None:
        """Drop a blob, whole or not, even if it is pinned. It stays readable where it is open."""
        partial = self._in_flight.get(digest)
        if partial is not None:
            partial.discard()
            await partial.ended.wait()
        await self._drop([digest] if digest in self._entries else [])

    async def settle(self) -> None:
        """Wait until the files of verified and closed blobs are final, before the agent stops."""
        for partial in list(self._in_flight.values()):
            if partial.closed or partial.verified:
                await partial.ended.wait()

    # --- what blobs in flight call: see ``partial_blob.Home`` ------------------------------

    async def free_disk(self, wanted_bytes: int) -> bool:
        """The disk is full: evict that many bytes. Returns: False when all are in use."""
        victims = self._victims(max(wanted_bytes, 1))
        await self._drop(victims)
        return bool(victims)

    def blob_verified(self, partial: PartialBlob) -> None:
        """The blob is whole: from now on ``open_file`` opens it, under the name it has."""
        self._entries[partial.digest] = Entry(partial.path, partial.size_bytes, whole=True)
        self._use(partial.digest)

    def partial_ended(self, partial: PartialBlob, *, keep: bool) -> None:
        """Give a verified blob its final name; keep or delete what another one holds."""
        digest = partial.digest
        del self._in_flight[digest]
        entry = self._entries.get(digest)
        if entry is None or entry.path != partial.path:
            return  # removed meanwhile
        sidecar = Sidecar(list(partial.held), list(partial.trusted))
        if not keep or not (partial.verified or sidecar.held):
            self._set_aside([digest])
            self._empty_scratch_soon()
        elif not partial.verified:
            self._entries[digest] = Entry(partial.path, partial.size_bytes, False, sidecar)
        else:
            path = self.folder / "whole" / partial.path.name
            try:
                partial.path.rename(path)
                sidecar_path(partial.path).unlink(missing_ok=True)
            except OSError:  # on disk it stays in flight, with all its bytes
                return
            self._entries[digest] = entry._replace(path=path)
        self._shrink()

    # --- room -------------------------------------------------------------------------------

    def _victims(self, wanted_bytes: int, besides: Digest | None = None) -> list[Digest]:
        """The least recently used blobs that are not in use, up to ``wanted_bytes`` together."""
        victims: list[Digest] = []
        for digest, entry in self._entries.items():
            if wanted_bytes <= 0:
                break
            if digest == besides or self._pins[digest] or digest in self._in_flight:
                continue
            victims.append(digest)
            wanted_bytes -= entry.size_bytes
        return victims

    def has_room(self, size_bytes: int) -> bool:
        """Whether that many bytes more fit if every blob that is not in use is evicted."""
        needed = sum(
            entry.size_bytes
            for digest, entry in self._entries.items()
            if self._pins[digest] or digest in self._in_flight
        )
        return needed + size_bytes <= self._bytes_max

    def _room(self, size_bytes: int, besides: Digest) -> list[Digest]:
        """What to evict for that many bytes more. Raises: CacheFull, and then nothing is evicted.

        Blobs in use may take more than ``bytes_max``, as far as the disk has room, so that an image
        larger than the cache can be pulled. They are evicted when their last user is done.
        """
        disk = os.statvfs(self.folder)
        too_few = size_bytes - disk.f_bavail * disk.f_frsize
        victims = self._victims(
            max(self._used_bytes + size_bytes - self._bytes_max, too_few), besides
        )
        if sum(self._entries[digest].size_bytes for digest in victims) < too_few:
            raise CacheFull(f"the disk has no room for another {size_bytes} bytes")
        return victims

    async def _write(self, path: Path, data: bytes) -> None:
        while True:
            try:
                await trio.to_thread.run_sync(write_file, path, data, limiter=self.limiter)
            except OSError as error:
                if error.errno not in FULL_ERRORS:
                    raise
            else:
                return
            if not await self.free_disk(len(data)):
                raise CacheFull(f"the disk is full, and has no room for {len(data)} bytes")

    async def _drop(self, digests: list[Digest]) -> None:
        self._set_aside(digests)
        await self._empty_scratch()

    def _set_aside(self, digests: list[Digest]) -> None:
        """Take blobs out of the cache at once; a thread deletes their bytes later."""
        for digest in digests:
            entry = self._forget(digest)
            with suppress(OSError):
                sidecar_path(entry.path).unlink(missing_ok=True)
                entry.path.rename(self._scratch_path("gone"))

    async def _empty_scratch(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(delete_gone, self.folder, limiter=self.limiter)

    def _empty_scratch_soon(self) -> None:
        folder = self.folder
        trio.lowlevel.start_thread_soon(lambda: delete_gone(folder), lambda result: None)

    def _scratch_path(self, kind: str = "new") -> Path:
        return self.folder / "scratch" / f"{kind}.{next(self._numbers)}"

    # --- the index --------------------------------------------------------------------------

    def _add(self, digest: Digest, entry: Entry) -> None:
        self._entries[digest] = entry
        self._used_bytes += entry.size_bytes
        self._use(digest)

    def _forget(self, digest: Digest) -> Entry:
        entry = self._entries.pop(digest)
        self._used_bytes -= entry.size_bytes
        if entry.whole:
            self._evicted(digest)
        return entry

    def _use(self, digest: Digest, descriptor: int | None = None) -> None:
        self._entries.move_to_end(digest)
        self._last_used_ns = max(time.time_ns(), self._last_used_ns + 1)
        with suppress(OSError):
            target = self._entries[digest].path if descriptor is None else descriptor
            os.utime(target, ns=(self._last_used_ns, self._last_used_ns))

    def _unpin(self, digest: Digest) -> None:
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]
            self._shrink()

    def _shrink(self) -> None:
        """Evict what is beyond ``bytes_max`` and no longer in use."""
        if self._used_bytes > self._bytes_max:
            self._set_aside(self._victims(self._used_bytes - self._bytes_max))
            self._empty_scratch_soon()
