"""One blob on its way here: its partial file, where it can be had, who waits, and how it ended.

    fetching --all pieces accepted--> verifying --SHA-256 right--> verified (ended)
       ^                                  |
       +---------SHA-256 wrong------------+
    each of them --no source, no room, no reader left--> failed (ended)

``Downloads`` makes the objects and counts their readers, ``SwarmDriver`` makes the transitions,
readers wait for the two events. A download that has ended never goes on. The next request for the
blob begins another one, which finds on disk the bytes that this one left.
"""

from typing import Final

import trio
from msgspec import Struct

from beiran.cache.partial_blob import PartialBlob
from beiran.clock import now_text
from beiran.ids import Digest, NodeId
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import MirrorError
from beiran.registry.errors import OriginError
from beiran.sansio.rate import Rate
from beiran.swarm.pieces import cut


class BlobRequest(Struct, frozen=True, kw_only=True):
    """A blob to fetch, and what is known of its sources.

    Attributes:
      name: the repository that an engine pulls from.
      from_origin: whether the origin of ``name`` has the blob and may be asked.
      sources: peers that said that they have it.
      rank: its place in its image; of several downloads the core favours the lowest.
      is_manifest: the origin has it under ``manifests/``, not under ``blobs/``.
    """

    digest: Digest
    size_bytes: int
    name: RepositoryName
    from_origin: bool = False
    sources: tuple[NodeId, ...] = ()
    rank: int = 0
    is_manifest: bool = False


class BlobDownload:
    """A blob in flight.

    Attributes:
      origins: the repositories that the blob may be fetched from, in the order of their requests.
      origin_failure: the last error of an origin; it explains a download without a source.
      readers: how many wait for it; at 0 it is given up after ``downloads.LINGER_S``.
      first_bytes: set when the first piece is accepted, and when the download ends.
      rates: bytes per second from each peer; None stands for the origin.
    """

    def __init__(self, request: BlobRequest, partial: PartialBlob) -> None:
        self.digest: Final = request.digest
        self.name: Final = request.name
        self.is_manifest: Final = request.is_manifest
        self.partial: Final = partial
        self.pieces: Final = cut(request.size_bytes)
        self.origins: Final[list[RepositoryName]] = []
        self.origin_failure: OriginError | None = None
        self.readers = 0
        self.first_bytes: Final = trio.Event()
        self.rates: Final[dict[NodeId | None, Rate]] = {}
        self.started_at: Final = now_text()
        self._ended: Final = trio.Event()
        self._failure: MirrorError | None = None

    @property
    def size_bytes(self) -> int:
        """Length of the whole blob."""
        return self.pieces.size_bytes

    @property
    def ended(self) -> bool:
        """Whether it is verified or has failed."""
        return self._ended.is_set()

    async def whole(self) -> None:
        """Wait until the blob is verified. Raises: MirrorError when the download fails."""
        await self._ended.wait()
        self.check()

    def check(self) -> None:
        """Raises: MirrorError when the download has failed."""
        if self._failure is not None:
            raise self._failure

    def received(self, count: int, source: NodeId | None) -> None:
        """``count`` bytes came from a peer, or from the origin (None)."""
        self.rates.setdefault(source, Rate()).add(count, trio.current_time())

    def rate(self, source: NodeId | None) -> float:
        """Bytes per second from a peer or the origin (None), now."""
        rate = self.rates.get(source)
        return 0.0 if rate is None else rate.at(trio.current_time())

    def release(self, piece: int) -> None:
        """Free a piece that is to be fetched again."""
        self.partial.release(self.pieces.start(piece), self.pieces.end(piece))

    def end(self, failure: MirrorError | None = None) -> None:
        """Wake all who wait: the blob is verified, or the download failed with ``failure``."""
        if not self.ended:
            self._failure = failure
            self.first_bytes.set()
            self._ended.set()
