"""One blob in flight: a sparse file, which of its bytes are held, and the SHA-256 behind them.

    absent --claim, write--> written --hold--> held --verify--> verified
                                ^                |
                                +---- release ---+

Bytes are written under a claim (``claims``) and *held* afterwards, when the writer found them right
by its piece hash. Held bytes can no longer be claimed, so a misbehaving peer cannot overwrite what
another one brought. Piece hashes are hints: held bytes may still be wrong as a whole, which only
the SHA-256 shows. Then ranges are *released* and fetched again.

On disk: ``HEX.SIZE`` has the bytes, and ``HEX.SIZE.held``, the sidecar, says which of them are
synced. The file is synced before the sidecar is written, so the sidecar is right even after a power
failure. An agent that is killed loses what was held since the last note: ``NOTE_BYTES`` or little
more.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import outcome
import trio
from blake3 import blake3

from beiran.cache.background_job import BackgroundJob
from beiran.cache.byte_ranges import RangeSet
from beiran.cache.claims import Claim, Claims
from beiran.cache.errors import BlobMissing, CacheFull
from beiran.cache.files import (
    FULL_ERRORS,
    BlobName,
    Sidecar,
    open_sparse,
    sidecar_path,
    write_all,
    write_sidecar,
)
from beiran.cache.prefix_hash import READ_BYTES, PrefixHash
from beiran.ids import digest_text

NOTE_BYTES: Final = 16 * 2**20
"""After this many newly held bytes the file is synced and the sidecar written. A killed agent
fetches that many again; a sync for less costs throughput. Chosen."""

T = TypeVar("T")


class Home(Protocol):
    """What a blob in flight calls of its cache."""

    limiter: trio.CapacityLimiter

    async def free_disk(self, wanted_bytes: int) -> bool:
        """Evict blobs that are not in use. Returns: False when there is none."""
        ...

    def blob_verified(self, partial: "PartialBlob") -> None:
        """The blob is whole and its digest right. Its bytes are not synced yet."""
        ...

    def partial_ended(self, partial: "PartialBlob", *, keep: bool) -> None:
        """No thread uses the blob's files any more. They stay if ``keep``; else delete them.

        The bytes of a verified blob that stays are synced.
        """
        ...


class PartialBlob:
    """A blob in flight. ``BlobCache.partial`` makes one; ``close`` or ``verify`` ends it.

    All methods are for the event loop's thread. Only ``hold`` and ``release`` change ``held`` and
    ``trusted``.

    Attributes:
      held: the bytes that are in the file and believed to be right.
      trusted: those of them that an engine may get before the SHA-256 is known.
      verified: the SHA-256 is right; all bytes are held, and nothing changes any more.
      closed: given up, with its bytes kept or deleted; nothing more is read or written here.
      ended: set when the files are the cache's again.
    """

    def __init__(self, home: Home, path: Path, name: BlobName, sidecar: Sidecar | None) -> None:
        """Open the file at ``path``, emptied if there is no sidecar. Blocks. Raises: OSError."""
        self.digest: Final = name.digest
        self.size_bytes: Final = name.size_bytes
        self.path: Final = path
        self.verified = False
        self.closed = False
        self.ended = trio.Event()
        self.held = RangeSet(sidecar.held if sidecar else ())
        self.trusted = RangeSet(sidecar.trusted if sidecar else ())
        self._home = home
        self.descriptor: Final = open_sparse(path, name.size_bytes, new=sidecar is None)
        self._hash = PrefixHash(self.descriptor, name.size_bytes, self._end_if_idle)
        self._sync: BackgroundJob[None] = BackgroundJob()
        self._keep = True
        self._noted = True  # False: the sidecar is out of date
        self._unnoted_bytes = 0
        self._claims: Final = Claims()
        self._puts = 0  # calls of ``put`` that have not returned
        self._users = 0  # threads that use the descriptor, besides those of _hash and _sync
        self._changed = trio.Event()
        self._hash.extend(self.held.prefix)

    def __str__(self) -> str:
        return digest_text(self.digest)

    @property
    def whole(self) -> bool:
        """Whether all bytes are held."""
        return self.held.prefix == self.size_bytes

    @property
    def trusted_prefix_bytes(self) -> int:
        """How many bytes from the start an engine may get."""
        return self.size_bytes if self.verified else self.trusted.prefix

    def claim(self, start: int, end: int) -> Claim | None:
        """Claim a range for ``write``. Give the claim back with ``unclaim``.

        Returns: None when some of the range is held, or claimed already.
        """
        self._check(start, end)
        if self.closed or self.verified or self.held.overlaps(start, end):
            return None
        return self._claims.take(start, end)

    async def put(
        self, start: int, parts: Sequence[bytes | memoryview], *, trusted: bool = False
    ) -> None:
        """Write and hold a range whose bytes were found right; other claims on it are lost.

        ``verify`` waits for it, and cancelling the caller does not stop it.

        Args:
          parts: the bytes, in order.

        Raises: CacheFull; BlobMissing when the blob was closed; OSError.
        """
        end = start + sum(len(part) for part in parts)
        self._puts += 1
        try:
            with trio.CancelScope(shield=True):
                claim = await self._take_over(start, end)
                if claim is None:
                    return
                try:
                    position = start
                    for part in parts:
                        await self.write(claim, position, part)
                        position += len(part)
                    if not claim.lost:
                        self.hold(start, end, trusted=trusted)
                finally:
                    self.unclaim(claim)
        finally:
            self._puts -= 1
            self._announce()

    async def _take_over(self, start: int, end: int) -> Claim | None:
        """Claim a range whose claims are lost, once no thread writes with them."""
        for claim in self._claims.overlapping(start, end):
            claim.lost = True
        while others := self._claims.overlapping(start, end):
            if not any(claim.writing for claim in others):
                for claim in others:
                    self._claims.give_back(claim)
                break
            await self._changed.wait()
        return self.claim(start, end)

    def unclaim(self, claim: Claim) -> None:
        """End a claim. What was written stays in the file; only ``hold`` makes it held."""
        self._claims.give_back(claim)

    async def write(
        self, claim: Claim, start: int, data: bytes | bytearray | memoryview, *hashers: blake3
    ) -> None:
        """Write bytes to the file, in a thread; does nothing when the claim is lost.

        Args:
          hashers: the same thread feeds ``data`` to them.

        Raises: CacheFull; BlobMissing when the blob was closed; OSError.
        """
        if not claim.start <= start <= start + len(data) <= claim.end:
            raise ValueError(f"bytes {start}-{start + len(data)} were not claimed")
        if claim.lost:
            return
        to_hash = list(hashers)

        def job() -> None:
            while to_hash:
                to_hash.pop().update(data)
            write_all(self.descriptor, data, start)

        claim.writing = True
        try:
            await self._run(job, wanted_bytes=len(data))
        finally:
            claim.writing = False
            if claim.lost:
                self._announce()

    def write_now(self, claim: Claim, start: int, data: memoryview) -> bool:
        """Write without a thread: for the last bytes of a fetch that ends early, 1 MiB at most.

        Returns: False when nothing was written, for any reason.
        """
        if claim.lost or self.closed or self.verified or self.ended.is_set():
            return False
        try:
            write_all(self.descriptor, data, start)
        except OSError:
            return False
        return True

    def hold(self, start: int, end: int, *, trusted: bool = False) -> None:
        """These bytes are in the file and believed to be right."""
        self._check(start, end)
        if self.verified or self.closed:
            return
        before = self.held.total
        self.held.add(start, end)
        if trusted:
            self.trusted.add(start, end)
        self._noted = False
        self._unnoted_bytes += self.held.total - before
        self._hash.extend(self.held.prefix)
        if self._unnoted_bytes >= NOTE_BYTES:
            self._note()
        self._announce()

    def release(self, start: int, end: int) -> None:
        """These bytes may be wrong: they can be claimed and written again."""
        self._check(start, end)
        if self.verified or self.closed:
            return
        self.held.remove(start, end)
        self.trusted.remove(start, end)
        self._hash.rewind(start)
        self._noted = False
        self._note()
        self._announce()

    async def blake3(self, start: int, end: int) -> bytes:
        """The BLAKE3 of a range of the file. Raises: BlobMissing, OSError."""
        self._check(start, end)

        def job() -> bytes:
            hasher, position = blake3(), start
            buffer = memoryview(bytearray(min(READ_BYTES, end - start)))
            while position < end:
                part = buffer[: min(len(buffer), end - position)]
                got = os.preadv(self.descriptor, [part], position)
                if not got:
                    raise OSError(f"{self.path} ends at byte {position}")
                hasher.update(part[:got])
                position += got
            return hasher.digest()

        return await self._run(job)

    async def wait_for_prefix(self, wanted_bytes: int) -> int:
        """Wait until an engine may get this many bytes from the start, or all.

        Returns: how many bytes it may get, which may be more.
        Raises: BlobMissing when the blob is closed before that.
        """
        while True:
            prefix = self.trusted_prefix_bytes
            if prefix >= min(wanted_bytes, self.size_bytes) and (self.verified or not self.closed):
                return prefix
            if self.closed:
                raise BlobMissing(f"{self} was given up")
            await self._changed.wait()

    async def verify(self) -> bool:
        """Check whether all bytes are held and their SHA-256 is right.

        If so the blob is in the cache from now on. Most of the hash is computed by then. If not,
        although all bytes are held, some range is wrong: ``release`` it and fetch it again.

        Raises: OSError when the file cannot be read.
        """
        while self._puts and not self.whole and not self.closed:
            await self._changed.wait()
        if self.verified or self.closed or not self.whole:
            return self.verified
        self._users += 1
        try:
            found = await self._hash.digest()
        finally:
            self._users -= 1
            self._end_if_idle()
        if self.verified or self.closed or found != self.digest:
            return self.verified
        self.verified = True
        self._home.blob_verified(self)
        self._claims.lose_all()
        self._noted = False
        self._note()
        self._announce()
        return True

    def close(self) -> None:
        """Fetch no more for now. What is held stays on disk for the next time."""
        self._close(keep=True)

    def discard(self) -> None:
        """Fetch no more, and delete what is there."""
        self._close(keep=False)

    def _close(self, *, keep: bool) -> None:
        if self.closed or self.verified:
            return
        self.closed = True
        self._keep = keep
        self._claims.lose_all()
        self._hash.stop()
        if keep:
            self._note()
        self._announce()
        self._end_if_idle()

    def _note(self) -> None:
        """Sync the file, then write the sidecar, in a thread."""
        if self._sync.busy or self._noted:
            return
        self._noted = True
        self._unnoted_bytes = 0
        # The last sync needs no sidecar: the file gets its final name right after it.
        sidecar = None if self.verified else Sidecar(list(self.held), list(self.trusted))

        def job() -> None:
            os.fdatasync(self.descriptor)
            if sidecar is not None:
                write_sidecar(sidecar_path(self.path), sidecar)

        def done(result: outcome.Outcome[None]) -> None:
            if isinstance(result, outcome.Error):
                if not isinstance(result.error, OSError):
                    result.unwrap()
                if self.verified and sidecar is None:
                    self._keep = False  # the bytes on disk are unknown
            if self.verified or self.closed:
                self._note()
            self._end_if_idle()

        self._sync.start(job, done)

    async def _run(self, job: Callable[[], T], *, wanted_bytes: int = 0) -> T:
        """Run ``job`` in a thread; once more each time that a full disk could be made room on."""
        while True:
            if self.closed or self.ended.is_set():
                raise BlobMissing(f"{self} was closed")
            self._users += 1
            try:
                return await trio.to_thread.run_sync(job, limiter=self._home.limiter)
            except OSError as error:
                if error.errno not in FULL_ERRORS:
                    raise
            finally:
                self._users -= 1
                self._end_if_idle()
            if not await self._home.free_disk(wanted_bytes):
                raise CacheFull(f"the disk is full, and has no room for more of {self}")

    def _end_if_idle(self) -> None:
        """Close the file of an ended blob once no thread uses it."""
        if not (self.closed or self.verified) or self.ended.is_set():
            return
        if self._users or self._sync.busy or self._hash.busy:
            return
        self.ended.set()
        os.close(self.descriptor)
        self._home.partial_ended(self, keep=self._keep)

    def _check(self, start: int, end: int) -> None:
        if not 0 <= start <= end <= self.size_bytes:
            raise ValueError(f"no range {start}-{end} in {self.size_bytes} bytes")

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
