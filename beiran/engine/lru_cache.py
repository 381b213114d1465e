"""Configs and manifests that were read and checked, kept in memory."""

from collections import OrderedDict
from threading import Lock
from typing import Final

from beiran.ids import Digest

KEPT_BYTES_MAX: Final = 8 * 2**20


class SmallBlobs:
    """The last used of them. Threads may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Digest, bytes] = OrderedDict()
        self._kept_bytes = 0

    def get(self, digest: Digest) -> bytes | None:
        """The blob with this digest, if it is kept."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._kept.get(digest)

    def put(self, digest: Digest, data: bytes) -> None:
        """Keep a blob."""
        with self._lock:
            self._kept_bytes += len(data) - len(self._kept.pop(digest, b""))
            self._kept[digest] = data
            while self._kept_bytes > KEPT_BYTES_MAX:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
