"""What is in a cache's folder when an agent starts, and what an end at any moment left there."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from beiran.cache.files import SIDECAR_SUFFIX, Sidecar, parse_name, read_sidecar, sidecar_path
from beiran.ids import Digest


class Entry(NamedTuple):
    """A blob on disk. ``sidecar`` tells what there is of one that is not whole."""

    path: Path
    size_bytes: int
    whole: bool
    sidecar: Sidecar | None = None


class Found(NamedTuple):
    """The blobs in a folder, the least recently used first, and when the last was used."""

    entries: list[tuple[Digest, Entry]]
    last_used_ns: int


def scan(folder: Path) -> Found:
    """Make the folders, drop what is of no use, and tell what is there. Raises: OSError."""
    for name in ("whole", "partial", "scratch"):
        (folder / name).mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in (folder / "scratch").iterdir():
        path.unlink()
    found = _scan_whole(folder / "whole")
    found += _scan_partial(folder / "partial", {digest for _, digest, _ in found})
    found.sort(key=lambda row: (row[0], row[1]))
    return Found([(digest, entry) for _, digest, entry in found], found[-1][0] if found else 0)


def delete_gone(folder: Path) -> None:
    """Delete what was set aside. What cannot be deleted now is at the next start."""
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
