"""One blob on its way into the cache: a sparse file, and which of its bytes are there.

Bytes are written first and *held* afterwards, when whoever brought them found them right. Who
writes has a ``Claim`` on the range, and what is held can no longer be claimed: so two who bring the
same range cannot mix their bytes, and a liar spoils nothing that an honest peer brought. What is
held may still turn out wrong as a whole, which only the SHA-256 tells; then ranges are *released*
and brought anew.

On disk: ``HEX.SIZE`` with the bytes and ``HEX.SIZE.held``, a sidecar that says which of them are
surely there. The file is synced before the sidecar is written, so that it is right also after a
power failure. An agent that is killed loses what was held since, some ``NOTE_BYTES`` at most.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, TypeVar

import outcome
import trio
from blake3 import blake3

from beiran.cache.background_job import Behind
from beiran.cache.byte_ranges import RangeSet
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
"""When so many bytes were newly held, they are synced and noted in the sidecar."""

T = TypeVar("T")


class Home(Protocol):
    """What a blob in flight needs of the cache it will be in."""

    limiter: trio.CapacityLimiter

    async def free_disk(self, wanted_bytes: int) -> bool:
        """Drop what nobody needs. Returns: whether anything was dropped."""
        ...

    def blob_verified(self, partial: "PartialBlob") -> None:
        """It is whole, and its digest is right. Its bytes are not synced yet."""
        ...

    def partial_ended(self, partial: "PartialBlob", *, keep: bool) -> None:
        """No thread uses its files any more. They stay if ``keep``, else they are to go.

        If it is verified and is to be kept, its bytes are synced.
        """
        ...


class Claim:
    """The right to write a range, which nobody else has meanwhile. See ``PartialBlob.claim``."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.writing = False
        self.lost = False
        """Somebody else had these bytes first: what is written now is dropped."""


class PartialBlob:
    """A blob in flight, made by ``BlobCache.partial``. Closed on leaving its ``with`` block.

    All methods are for the loop's thread. What can be read of ``held`` and ``trusted`` is changed
    by ``hold`` and ``release`` only.

    Attributes:
      held: which bytes are there.
      trusted: which of them may be handed to an engine before the SHA-256 is known.
      verified: the SHA-256 is right; everything is held, and nothing changes any more.
      closed: given up or put off; nothing more can be read or written here.
    """

    def __init__(self, home: Home, path: Path, name: BlobName, sidecar: Sidecar | None) -> None:
        """Open the file at ``path``; empty, if nothing is known of it. Blocks. Raises: OSError."""
        self.digest: Final = name.digest
        self.size_bytes: Final = name.size_bytes
        self.path: Final = path
        self.verified = False
        self.closed = False
        self.ended = trio.Event()
        """Set when its files are the cache's again."""
        self.held = RangeSet(sidecar.held if sidecar else ())
        self.trusted = RangeSet(sidecar.trusted if sidecar else ())
        self._home = home
        self.descriptor: Final = open_sparse(path, name.size_bytes, new=sidecar is None)
        self._hash = PrefixHash(self.descriptor, name.size_bytes, self._end_if_idle)
        self._sync: Behind[None] = Behind()
        self._keep = True
        self._noted = True  # or there is something that the sidecar does not say
        self._unnoted_bytes = 0
        self._claims: list[Claim] = []
        self._coming = 0  # ranges that are being put
        self._users = 0  # threads that use the descriptor, besides those of _hash and _sync
        self._changed = trio.Event()

    def start(self) -> None:
        """Begin to hash what is there from before."""
        self._hash.extend(self.held.prefix)

    def __enter__(self) -> "PartialBlob":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return digest_text(self.digest)

    @property
    def whole(self) -> bool:
        """Whether all bytes are held."""
        return self.held.prefix == self.size_bytes

    @property
    def held_bytes(self) -> int:
        """How many bytes are held."""
        return self.held.total

    @property
    def trusted_prefix_bytes(self) -> int:
        """How many bytes from the beginning on may be handed to an engine."""
        return self.size_bytes if self.verified else self.trusted.prefix

    @property
    def hashed_bytes(self) -> int:
        """How many bytes from the beginning on are in the SHA-256 already."""
        return self._hash.position

    def claim(self, start: int, end: int) -> Claim | None:
        """The right to write a range, for ``write``; to be given back by ``unclaim``.

        Returns: None when some of it is held, or being written by somebody else.
        """
        self._check(start, end)
        if self.closed or self.verified or self.held.overlaps(start, end):
            return None
        if self._overlapping(start, end):
            return None
        claim = Claim(start, end)
        self._claims.append(claim)
        return claim

    async def put(
        self, start: int, parts: Sequence[bytes | memoryview], *, trusted: bool = False
    ) -> None:
        """Hold a range of which somebody has all and found it right: others lose their claims.

        It counts as here from now on: ``verify`` waits for it, and whoever cancels comes too late.

        Args:
          parts: its bytes, in order.

        Raises: CacheFull; BlobMissing when it was closed; OSError.
        """
        end = start + sum(len(part) for part in parts)
        self._coming += 1
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
            self._coming -= 1
            self._announce()

    async def _take_over(self, start: int, end: int) -> Claim | None:
        for claim in self._overlapping(start, end):
            claim.lost = True
        while others := self._overlapping(start, end):
            if not any(claim.writing for claim in others):
                for claim in others:
                    self._claims.remove(claim)
                break
            await self._changed.wait()
        return self.claim(start, end)

    def unclaim(self, claim: Claim) -> None:
        """Give a right back. What was written stays written, and is not held by that."""
        if claim in self._claims:
            self._claims.remove(claim)

    async def write(
        self, claim: Claim, start: int, data: bytes | bytearray | memoryview, *hashers: blake3
    ) -> None:
        """Put bytes into the file, in a thread; does nothing when the claim was lost.

        Args:
          hashers: are fed with ``data`` on the way.

        Raises: CacheFull; BlobMissing when it was closed; OSError.
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
        """As ``write``, without a thread: for the little that is left when a fetch is broken off.

        Returns: False when it was not written, whatever the reason.
        """
        if claim.lost or self.closed or self.verified or self.ended.is_set():
            return False
        try:
            write_all(self.descriptor, data, start)
        except OSError:
            return False
        return True

    def hold(self, start: int, end: int, *, trusted: bool = False) -> None:
        """These bytes are in the file, and believed to be right."""
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
        """These bytes are not right after all, or not surely: they can be written again."""
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
        """The BLAKE3 of a range as it is in the file. Raises: BlobMissing, OSError."""
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

    async def read(self, start: int, end: int) -> bytes:
        """Bytes that are held. Raises: BlobMissing, OSError."""
        self._check(start, end)
        if not self.held.covers(start, end):
            raise BlobMissing(f"bytes {start}-{end} of {self} are not there")
        return await self._run(lambda: os.pread(self.descriptor, end - start, start))

    async def wait_for_prefix(self, wanted_bytes: int, *, trusted: bool = True) -> int:
        """Wait until so many bytes from the beginning on are there, or all.

        Args:
          trusted: count only what may be handed to an engine.

        Returns: how many there are, which may be more.
        Raises: BlobMissing when it is closed before that.
        """
        while True:
            prefix = self.trusted_prefix_bytes if trusted else self.held.prefix
            if prefix >= min(wanted_bytes, self.size_bytes) and (self.verified or not self.closed):
                return prefix
            if self.closed:
                raise BlobMissing(f"{self} was given up")
            await self._changed.wait()

    async def verify(self) -> bool:
        """Whether all is held and the SHA-256 is right. If so it is in the cache from now on.

        Most of the hash is known by then. When the answer is False although it is whole, some
        range is wrong: ``release`` it, and bring it again.

        Raises: OSError when the file cannot be read.
        """
        while self._coming and not self.whole and not self.closed:
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
        self._give_up_claims()
        self._noted = False
        self._note()
        self._announce()
        return True

    def close(self) -> None:
        """Bring no more for now. What is held stays on disk, to be gone on with later."""
        self._close(keep=True)

    def discard(self) -> None:
        """Bring no more, and drop what there is."""
        self._close(keep=False)

    def _close(self, *, keep: bool) -> None:
        if self.closed or self.verified:
            return
        self.closed = True
        self._keep = keep
        self._give_up_claims()
        self._hash.stop()
        if keep:
            self._note()
        self._announce()
        self._end_if_idle()

    def _note(self) -> None:
        """Sync the file, and say so in the sidecar, in a thread."""
        if self._sync.busy or self._noted:
            return
        self._noted = True
        self._unnoted_bytes = 0
        # The last sync needs no sidecar: the file goes under its final name right after it.
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
                    self._keep = False  # who knows what is on disk now
            if self.verified or self.closed:
                self._note()
            self._end_if_idle()

        self._sync.start(job, done)

    async def _run(self, job: Callable[[], T], *, wanted_bytes: int = 0) -> T:
        """Run ``job`` in a thread; again, when there was no room on the disk and now there is."""
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

    def _give_up_claims(self) -> None:
        for claim in self._claims:
            claim.lost = True

    def _overlapping(self, start: int, end: int) -> list[Claim]:
        return [claim for claim in self._claims if claim.start < end and start < claim.end]

    def _end_if_idle(self) -> None:
        """Close the file once it is done with and no thread uses it."""
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
