"""The files of the blob cache: their names, sidecars, how they are written, and how they are found.

    FOLDER/whole/HEX.SIZE       a whole blob: verified and synced before it got this name
    FOLDER/partial/HEX.SIZE     a blob in flight, sparse; HEX.SIZE.held is its sidecar
    FOLDER/scratch/             files being written or deleted; emptied at each start

``scan`` reads that at an agent's start and drops what an end at any moment may have left behind.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from beiran.ids import Digest

FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT)
SIDECAR_SUFFIX: Final = ".held"
SIDECAR_BYTES_MAX: Final = 4 * 2**20  # 1,024 ranges take some 50 kB
_MODE: Final = 0o640
_SIZE_MAX: Final = 2**48  # 256 TiB: larger than any file system's file


class BlobName(NamedTuple):
    """A file's name, ``HEX.SIZE``. A file shorter than ``SIZE`` was cut off."""

    digest: Digest
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.digest.hex()}.{self.size_bytes}"


def parse_name(name: str) -> BlobName | None:
    """Read a file's name; None for a name that the cache does not give."""
    digits, _, size = name.partition(".")
    try:
        parsed = BlobName(Digest(bytes.fromhex(digits)), int(size))
    except ValueError:
        return None
    return parsed if str(parsed) == name and 0 <= parsed.size_bytes <= _SIZE_MAX else None


class Sidecar(Struct, frozen=True):
    """Which ranges of a blob in flight are on disk and synced, and which of them are trusted."""

    held: list[tuple[int, int]]
    trusted: list[tuple[int, int]]


def sidecar_path(blob: Path) -> Path:
    """The path of the sidecar of a blob in flight."""
    return blob.with_name(blob.name + SIDECAR_SUFFIX)


def read_sidecar(path: Path, size_bytes: int) -> Sidecar | None:
    """The sidecar at ``path`` of a blob of that size; None if it is missing or invalid."""
    try:
        with path.open("rb") as file:
            sidecar = msgspec.json.decode(file.read(SIDECAR_BYTES_MAX), type=Sidecar)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    sane = all(0 <= start < end <= size_bytes for start, end in sidecar.held + sidecar.trusted)
    return sidecar if sane else None


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Replace the sidecar by a new one, whole or not at all. Raises: OSError."""
    new = path.with_name(path.name + ".new")
    write_file(new, msgspec.json.encode(sidecar))
    new.replace(path)


def write_file(path: Path, data: bytes) -> None:
    """Write a file and sync it. Raises: OSError, and then the file is gone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    try:
        write_all(descriptor, data, 0)
        os.fdatasync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def open_sparse(path: Path, size_bytes: int, *, new: bool) -> int:
    """Open a file of that size for reading and writing. Raises: OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if new else 0)
    descriptor = os.open(path, flags, _MODE)
    try:
        os.ftruncate(descriptor, size_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes | bytearray | memoryview, start: int) -> None:
    """Write all of ``data`` at ``start``. Raises: OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, start)
        start += written
        view = view[written:]


class Entry(NamedTuple):
    """A blob on disk. ``sidecar``: of one that is not whole."""

    path: Path
    size_bytes: int
    whole: bool
    sidecar: Sidecar | None = None


class Found(NamedTuple):
    """The blobs in a folder, the least recently used first, and the time of the last use."""

    entries: list[tuple[Digest, Entry]]
    last_used_ns: int


def scan(folder: Path) -> Found:
    """Make the folders, delete what is unusable, and list the rest. Raises: OSError."""
    for name in ("whole", "partial", "scratch"):
        (folder / name).mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in (folder / "scratch").iterdir():
        path.unlink()
    found = _scan_whole(folder / "whole")
    found += _scan_partial(folder / "partial", {digest for _, digest, _ in found})
    found.sort(key=lambda row: (row[0], row[1]))
    return Found([(digest, entry) for _, digest, entry in found], found[-1][0] if found else 0)


def delete_gone(folder: Path) -> None:
    """Delete the files that were set aside. Those that cannot be deleted go at the next start."""
    for path in (folder / "scratch").glob("gone.*"):
        with suppress(OSError):
            path.unlink()


def _scan_whole(folder: Path) -> list[tuple[int, Digest, Entry]]:
    found = []
    for path in folder.iterdir():
        name, status = parse_name(path.name), path.lstat()
        if name is None or status.st_size != name.size_bytes:
            path.unlink()
            continue
        entry = Entry(path, name.size_bytes, whole=True)
        found.append((status.st_mtime_ns, name.digest, entry))
    return found


def _scan_partial(folder: Path, whole: set[Digest]) -> list[tuple[int, Digest, Entry]]:
    found = []
    seen = set(whole)
    kept: set[str] = set()
    for path in sorted(folder.iterdir()):
        name, status = parse_name(path.name), path.lstat()
        if name is None or name.digest in seen or status.st_size != name.size_bytes:
            continue
        sidecar = read_sidecar(sidecar_path(path), name.size_bytes)
        if sidecar is None or not sidecar.held:
            continue
        seen.add(name.digest)
        kept |= {path.name, path.name + SIDECAR_SUFFIX}
        entry = Entry(path, name.size_bytes, whole=False, sidecar=sidecar)
        found.append((status.st_mtime_ns, name.digest, entry))
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return found
