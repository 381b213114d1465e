"""What is kept of a run: plain data that can be written, read again and drawn.

Times are virtual seconds since the world began.
"""

import zlib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from beiran.errors import SettingsError

FILE: Final = "record.json.z"
RECORD_BYTES_MAX: Final = 1 << 30
Packed = TypeVar("Packed", bound=msgspec.Struct)


class News(msgspec.Struct, frozen=True):
    """A change of what one host holds, and when others knew of it.

    Attributes:
      public: how many others were online at ``at``.
      after_s: how long after ``at`` each of the others knew, in order.
    """

    owner: int
    at: float
    public: int
    after_s: list[float]


class Failure(msgspec.Struct, frozen=True):
    """A host that ended without a word, and who noticed when.

    Attributes:
      how: what was done to it.
      witnesses: how many others were online at ``at``.
      suspected_s: after how long the first other suspected it; None: nobody did, or at once down.
      down_s: after how long each of the others had it down, in order.
    """

    host: int
    at: float
    how: str
    witnesses: int
    suspected_s: float | None
    down_s: list[float]


class FalseVerdict(msgspec.Struct, frozen=True):
    """Somebody held a host for down that runs, and that it can reach.

    Attributes:
      hampered: the observer itself was stopped, blocked or slow, or had been a moment ago.
    """

    at: float
    observer: int
    subject: int
    hampered: bool


class Mark(msgspec.Struct, frozen=True):
    """Something that was done; ``host`` is -1 for the network."""

    at: float
    host: int
    text: str


class Sample(msgspec.Struct, frozen=True):
    """The cluster at one moment; traffic since the sample before.

    Attributes:
      online: hosts whose agent runs.
      suspected: pairs of a host and one that it suspects.
      missed: pairs of a host and one that it has down or left.
      sent_bytes: by the host that sent least, the median, the 99th percentile, the most.
      by_kind: packets and bytes of all hosts, by kind.
    """

    at: float
    online: int
    suspected: int
    missed: int
    sent_bytes: tuple[int, float, float, int]
    by_kind: dict[str, tuple[int, int]]


class Span(msgspec.Struct, frozen=True):
    """How a host was, or how others saw it, for a while.

    Attributes:
      state: ``stopped``, ``off``, …: what was so; ``suspect``, ``down``, ``left``: what the
        largest share of the others held for so.
      share: of the others that held it for so.
    """

    host: int
    start: float
    end: float
    state: str
    share: float = 1.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
      about: what it was run with, in words.
      truth: spans in which hosts were not well; whoever is not named was.
      seen: spans in which some host was not seen alive by all.
    """

    title: str
    about: dict[str, str]
    hosts: int
    seconds: float
    steps: int
    news: list[News]
    failures: list[Failure]
    false_verdicts: list[FalseVerdict]
    marks: list[Mark]
    samples: list[Sample]
    truth: list[Span]
    seen: list[Span]
    dropped: dict[str, int]
    sent_by_host: list[int]
    left_out: int = 0
    """News that were not kept, since there were too many."""

    def write(self, folder: Path) -> None:
        """As one file there."""
        write_packed(self, folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Raises: SettingsError where there is none."""
        return read_packed(folder / FILE, cls)


def write_packed(record: msgspec.Struct, path: Path) -> None:
    """Write a record of whatever kind as one file."""
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
    """The value that ``share`` of all (in order, at least one) do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
