"""Files of the cache: their names, what is noted beside them, writing all of something."""

import errno
import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from beiran.ids import Digest

FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT)
SIDECAR_SUFFIX: Final = ".held"
SIDECAR_BYTES_MAX: Final = 4 * 2**20
_MODE: Final = 0o640
_SIZE_MAX: Final = 2**48


class BlobName(NamedTuple):
    """What a file's name says: ``HEX.SIZE``.

    The size is in it so that a file which was cut off is known from a whole one.
    """

    digest: Digest
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.digest.hex()}.{self.size_bytes}"


def parse_name(name: str) -> BlobName | None:
    """Read a file's name; None when it is not one of ours."""
    digits, _, size = name.partition(".")
    try:
        parsed = BlobName(Digest(bytes.fromhex(digits)), int(size))
    except ValueError:
        return None
    return parsed if str(parsed) == name and 0 <= parsed.size_bytes <= _SIZE_MAX else None


class Sidecar(Struct, frozen=True):
    """Which ranges of a blob in flight are on disk, synced, and which of them are trusted."""

    held: list[tuple[int, int]]
    trusted: list[tuple[int, int]]


def sidecar_path(blob: Path) -> Path:
    """Where the sidecar of a blob in flight is."""
    return blob.with_name(blob.name + SIDECAR_SUFFIX)


def read_sidecar(path: Path, size_bytes: int) -> Sidecar | None:
    """The sidecar at ``path`` of a blob of that size; None when there is none that makes sense."""
    try:
        with path.open("rb") as file:
            sidecar = msgspec.json.decode(file.read(SIDECAR_BYTES_MAX), type=Sidecar)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    sane = all(0 <= start < end <= size_bytes for start, end in sidecar.held + sidecar.trusted)
    return sidecar if sane else None


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Put a sidecar in the place of the one before, whole or not at all. Raises: OSError."""
    new = path.with_name(path.name + ".new")
    write_file(new, msgspec.json.encode(sidecar))
    new.replace(path)


def write_file(path: Path, data: bytes) -> None:
    """Make a file, and have it on disk. Raises: OSError, and then there is no such file."""
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
    """A descriptor to read and write a file of that size with. Raises: OSError."""
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
