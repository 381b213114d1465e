"""Writes images and names into an OCI layout folder. Called by the layout engine.

The order of writing ensures that a reader never sees half of a change. The writer stores the blobs
first, and renames each to its digest when it is complete. Then it replaces ``index.json`` by an
atomic rename. Each change holds a lock on the folder: ``flock`` of the folder itself, which adds no
file to it. A program that takes no lock, such as skopeo, may still overwrite an entry of the index.

Source: OCI image specification, image-layout.md.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from beiran.engine.content_store import BadContent, MissingContent, read_small_file
from beiran.engine.docker.load import (
    CONTAINERD_NAME,
    LAYOUT_FILE,
    REF_NAME,
    named_descriptors,
)
from beiran.engine.interface import Manifest
from beiran.errors import EngineRefused
from beiran.ids import Digest, digest_text
from beiran.oci.familiar_names import familiar_name
from beiran.oci.manifests import OCI_INDEX

PART_PREFIX: Final = ".beiran-"  # hidden, and never the 64 hex digits of a blob's name
_COPY_BYTES: Final = 2**20  # a read and a write per MiB; chosen, not measured
_CANNOT_LINK: Final = frozenset(
    # Another file system, a file of another user, too many links, no links on this file system;
    # ENOENT is the answer for an open file that was deleted.
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT}
)

Row = dict[str, Any]


class LayoutWriter:
    """Changes one layout folder. All methods block, and raise EngineRefused on failure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"

    def prepare(self) -> None:
        """Create an empty layout if the folder is missing or empty. Leave a layout as it is."""
        with self.refusing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if not (self.folder / "oci-layout").exists():
                    if any(self.folder.iterdir()):
                        raise EngineRefused(f"{self.folder} is not empty, and no OCI image layout")
                    self._write_index({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
                    self._replace(self.folder / "oci-layout", LAYOUT_FILE)
                self.blobs.mkdir(parents=True, exist_ok=True)

    def add_blob(self, digest: Digest, blob: Path | int | bytes) -> None:
        """Add a verified blob: by a hard link if possible, else by a copy.

        Args:
          blob: its bytes, the path of a file, or the descriptor of an open file. A descriptor stays
            valid when another program renames or deletes the file.
        """
        with self.refusing():
            path = self._path(digest)
            if path.exists():
                return
            if isinstance(blob, bytes):
                self._replace(path, blob)
                return
            part = self._part(path)
            try:
                self._link_or_copy(blob, part)
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)

    def begin_blob(self, digest: Digest) -> "PartBlob":
        """Open a blob that the caller writes in chunks."""
        path = self._path(digest)
        with self.refusing():
            return PartBlob(self, digest, path, self._part(path))

    def name_manifest(self, manifest: Manifest, names: Sequence[str]) -> None:
        """List a manifest in the index under ``names``, or without a name if there are none.

        The folder must have the manifest's blobs. A name that another manifest has moves to this
        one. A manifest that loses its last name leaves the index, and its blobs stay: skopeo and
        other tools leave them, too.
        """
        self.add_blob(manifest.digest, manifest.data)
        rows = named_descriptors(manifest, names)
        with self._changing() as index:
            kept = _without(index["manifests"], names)
            same = [row for row in kept if row.get("digest") == rows[0]["digest"]]
            if names:
                # A named entry makes the entry without a name superfluous.
                kept = [row for row in kept if row not in same or _name(row)]
            elif same:
                return
            index["manifests"] = kept + rows

    def name_entry(self, chosen: Callable[[Row], bool], name: str) -> bool:
        """Add a name to the first entry that ``chosen`` accepts. Returns False if none is."""
        with self._changing() as index:
            found = next((row for row in index["manifests"] if chosen(row)), None)
            if found is None:
                return False
            annotations = {**(found.get("annotations") or {}), CONTAINERD_NAME: name}
            annotations[REF_NAME] = name
            rows = _without(index["manifests"], [name])
            if not _name(found) and found in rows:
                rows.remove(found)
            index["manifests"] = [*rows, {**found, "annotations": annotations}]
            return True

    def remove_name(self, name: str) -> None:
        """Remove the index entry with this name. The blobs stay."""
        with self._changing() as index:
            index["manifests"] = _without(index["manifests"], [name])

    @contextmanager
    def _changing(self) -> Iterator[Row]:
        """Lock the folder, and yield the index; write it afterwards if the caller changed it."""
        with self.refusing(), self._locked():
            try:
                index = json.loads(read_small_file(self.folder / "index.json"))
                rows = index["manifests"]
                if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                    raise TypeError("manifests is no list of descriptors")
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise EngineRefused(f"{self.folder}/index.json cannot be read: {error}") from None
            before = json.dumps(index)
            yield index
            if json.dumps(index) != before:
                self._write_index(index)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn errors of the folder into EngineRefused."""
        try:
            yield
        except (MissingContent, BadContent) as problem:
            raise EngineRefused(f"no OCI image layout in {self.folder}: {problem}") from None
        except OSError as error:
            raise EngineRefused(f"cannot write to {self.folder}: {error.strerror}") from None

    def _write_index(self, index: Row) -> None:
        self._replace(self.folder / "index.json", json.dumps(index, indent=1).encode())

    def _replace(self, path: Path, data: bytes) -> None:
        """Write a file under a temporary name, and rename it: atomic for readers."""
        part = self._part(path)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                _sync(file.fileno())
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)

    def _link_or_copy(self, source: Path | int, part: Path) -> None:
        try:
            if isinstance(source, int):
                _link_open_file(source, part)
            else:
                os.link(source, part)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            with _reading(source) as read, part.open("xb") as write:
                shutil.copyfileobj(read, write, _COPY_BYTES)
                write.flush()
                _sync(write.fileno())

    def _path(self, digest: Digest) -> Path:
        return self.blobs / digest.hex()

    def _part(self, path: Path) -> Path:
        """Choose a temporary name in the same folder: rename(2) needs the same file system.

        64 random bits: two writers never choose the same name.
        """
        return path.parent / f"{PART_PREFIX}{secrets.token_hex(8)}"


class PartBlob:
    """A blob that is written under a temporary name. All methods block."""

    def __init__(self, writer: LayoutWriter, digest: Digest, path: Path, part: Path) -> None:
        self._writer = writer
        self._digest = digest
        self._path = path
        self._part = part
        self._sha256 = hashlib.sha256()
        self._file = part.open("xb")

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._sha256.update(data)
        with self._writer.refusing():
            self._file.write(data)

    def finish(self) -> None:
        """Verify the digest, and rename the blob to it. Raises: EngineRefused on a mismatch."""
        if self._sha256.digest() != self._digest:
            raise EngineRefused(f"the bytes of {digest_text(self._digest)} have another digest")
        with self._writer.refusing():
            self._file.flush()
            _sync(self._file.fileno())
            self._part.rename(self._path)

    def close(self) -> None:
        """Remove the temporary file if ``finish`` has not renamed it."""
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


def _without(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    gone = {familiar_name(name) for name in names}
    return [row for row in rows if _name(row) not in gone or not _name(row)]


def _name(row: Mapping[str, Any]) -> str:
    """The name of an index entry, in its familiar form; empty if it has none."""
    annotations = row.get("annotations")
    if not isinstance(annotations, dict):
        return ""
    name = annotations.get(CONTAINERD_NAME) or annotations.get(REF_NAME)
    return familiar_name(name) if isinstance(name, str) else ""


def _link_open_file(descriptor: int, path: Path) -> None:
    """Make a hard link to an open file. Source: linkat(2), AT_SYMLINK_FOLLOW."""
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(descriptor), path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _reading(source: Path | int) -> BinaryIO:
    """Open a file again: a new file position, which other readers do not move."""
    return open(source if isinstance(source, Path) else f"/proc/self/fd/{source}", "rb")


def _sync(fd: int) -> None:
    """Flush a file to disk. A blob must be complete after a power cut, or absent.

    Errors are ignored: some file systems have no fsync, and readers verify each digest.
    """
    with suppress(OSError):
        os.fsync(fd)
