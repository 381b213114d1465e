"""Records of runs as files, and the statistics that reports share."""

import zlib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from beiran.errors import SettingsError

RECORD_BYTES_MAX: Final = 1 << 30  # unpacked: a broken or hostile file must not fill the memory
Packed = TypeVar("Packed", bound=msgspec.Struct)


def write_packed(record: msgspec.Struct, path: Path) -> None:
    """Write a record of any kind as one file."""
    path.write_bytes(zlib.compress(msgspec.json.encode(record)))


def read_packed(path: Path, kind: type[Packed]) -> Packed:
    """Read what ``write_packed`` wrote. Raises: SettingsError where there is none."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(path.read_bytes(), RECORD_BYTES_MAX)
        return msgspec.json.decode(data, type=kind)
    except (OSError, zlib.error, msgspec.DecodeError) as error:
        raise SettingsError(f"{path.parent} holds no record of a run: {error}") from None


def quantile(ordered: list[float], share: float) -> float:
    """Return the value that a ``share`` of all (in order, at least one) do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
