"""Configs and manifests that were read and checked, kept in memory."""

from threading import Lock
from typing import Final

from cachetools import LRUCache

from beiran.ids import Digest

KEPT_BYTES_MAX: Final = 8 * 2**20
"""Some 1,000 images: a config and a manifest have 2 to 10 KB. The largest document fits."""


class SmallBlobs:
    """The blobs that were used last. Threads may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: LRUCache[Digest, bytes] = LRUCache(KEPT_BYTES_MAX, getsizeof=len)

    def get(self, digest: Digest) -> bytes | None:
        """The blob with this digest, if it is kept."""
        with self._lock:
            return self._kept.get(digest)

    def put(self, digest: Digest, data: bytes) -> None:
        """Keep a blob of at most ``KEPT_BYTES_MAX``."""
        with self._lock:
            self._kept[digest] = data
