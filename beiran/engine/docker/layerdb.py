"""The files in which a graph driver of Docker describes its layers, under the data root.

``image/DRIVER/layerdb/sha256/CHAIN_ID`` holds a layer's ``size`` (bytes of its files), ``diff``
(its diff ID), ``cache-id`` (where its files are) and ``tar-split.json.gz`` (how its tar was laid
out). ``image/DRIVER/distribution`` has what the engine learned of compressed blobs.
Source: moby, layer/filestore.go, distribution/metadata/v2_metadata_service.go.
"""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from cachetools import LRUCache, cachedmethod

from beiran.engine.content_store import BadContent, MissingContent, read_small_file
from beiran.engine.layers.tar_split import TarSplit, UnpackedTar, tar_bytes
from beiran.errors import DataError
from beiran.ids import Digest
from beiran.oci.images import chain_ids
from beiran.oci.manifests import digest_of

NOTES_BYTES_MAX: Final = 8 * 2**20
"""Notes kept in memory: those of a layer with 50,000 files take some 5 MB (measured)."""
_FOLDERS: Final = {"overlay2": "diff"}
"""Where, below a layer's cache ID, a driver has the files of that layer alone."""


class LayerDb:
    """The layers of one graph driver. All methods block."""

    def __init__(self, data_root: Path, driver: str) -> None:
        self.data_root = data_root
        self.driver = driver
        kept = data_root / "image" / driver
        self.images = kept / "imagedb" / "content" / "sha256"
        self._lock = Lock()
        self._kept: LRUCache[Hashable, TarSplit] = LRUCache(
            NOTES_BYTES_MAX, getsizeof=lambda notes: notes.memory_bytes
        )
        self._layers = kept / "layerdb" / "sha256"
        self._diff_ids = kept / "distribution" / "diffid-by-digest" / "sha256"

    def is_readable(self) -> bool:
        """Whether this process may read the data root."""
        try:
            return self.images.is_dir() and self._layers.parent.is_dir()
        except OSError:
            return False

    def sizes(self, diff_ids: Sequence[Digest]) -> list[int] | None:
        """Bytes of the files in each layer, the base first; None if one cannot be read."""
        found = []
        for chain_id in chain_ids(diff_ids):
            try:
                found.append(int((self.folder(chain_id) / "size").read_bytes()))
            except (OSError, ValueError):
                return None
        return found

    def folder(self, chain_id: Digest) -> Path:
        """Where the layer with this chain ID is described."""
        return self._layers / chain_id.hex()

    def config(self, image: Digest) -> bytes | None:
        """The bytes of an image's config; None if it is missing or damaged."""
        try:
            data = read_small_file(self.images / image.hex())
        except (MissingContent, BadContent):
            return None
        return data if digest_of(data) == image else None

    def has(self, chain_id: Digest) -> bool:
        """Whether a layer is there, together with those below it."""
        return (self.folder(chain_id) / "cache-id").is_file()

    def tar_bytes(self, chain_id: Digest) -> int | None:
        """Length of a layer's tar; None if its notes cannot be read."""
        try:
            return tar_bytes(self.folder(chain_id) / "tar-split.json.gz")
        except DataError:
            return None

    def diff_id_of(self, blob: Digest) -> str:
        """The diff ID of a compressed blob that the engine knows; empty for an unknown one.

        The engine remembers every blob that it has pulled or pushed.
        """
        try:
            return (self._diff_ids / blob.hex()).read_text().strip()
        except (OSError, ValueError):
            return ""

    def open_tar(self, chain_id: Digest) -> UnpackedTar | None:
        """The tar of a layer; None where the files of this driver cannot be read.

        Raises: DataError if its files are damaged.
        """
        if self.driver not in _FOLDERS:
            return None
        notes_path = self.folder(chain_id) / "tar-split.json.gz"
        try:
            cache_id = (self.folder(chain_id) / "cache-id").read_text().strip()
            if not re.fullmatch(r"[A-Za-z0-9_-]+", cache_id):
                raise DataError(f"{self.folder(chain_id)} has a strange cache-id")
            status = notes_path.stat()
            files = self.data_root / self.driver / cache_id / _FOLDERS[self.driver]
            if not files.is_dir():
                return None
        except (OSError, ValueError):
            return None
        identity = (cache_id, status.st_ino, status.st_size, status.st_mtime_ns)
        return UnpackedTar(self._notes(notes_path, identity), files, identity)

    @cachedmethod(
        lambda self: self._kept,
        key=lambda self, path, identity: identity,
        lock=lambda self: self._lock,
    )
    def _notes(self, path: Path, identity: Hashable) -> TarSplit:
        """The notes at ``path``, kept while there is room: ranges of one layer come in rows."""
        return TarSplit(path)
