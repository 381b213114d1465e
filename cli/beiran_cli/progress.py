"""How far a pull is: bars on a terminal, redrawn in place, or lines as things get done."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from beiran.api.models import PullDone, PullProgress
from beiran_cli.names import short_digest
from beiran_cli.table import print_line, printable, terminal_size
from beiran_cli.units import UNKNOWN, human_duration, human_size

BAR_CHARS: Final = 24
REDRAW_INTERVAL_S: Final = 0.1
ENDED: Final = ("done", "there")
_ERASE_LINE: Final = "\x1b[2K"
_ERASE_BELOW: Final = "\x1b[J"

WORDS: Final = {
    "waiting": "waiting",
    "fetching": "fetching",
    "verifying": "verifying",
    "done": "done",
    "there": "already there",
}


class Lines:
    """A line for each layer that is done, for what is no terminal."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def show(self, row: PullProgress) -> None:
        """Take in how far a layer is."""
        if row.state in ENDED and row.digest not in self._told:
            self._told.add(row.digest)
            print_line(layer_line(row))

    def close(self) -> None:
        """Nothing is left to do."""


class Bars:
    """A line for each layer, with a bar, kept up to date in place.

    Where the terminal has too few lines those that are done are left out first.

    Args:
      columns, lines: of the terminal.
      clock: seconds that only grow.
    """

    def __init__(
        self, columns: int, lines: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._columns = columns
        self._lines = lines
        self._clock = clock
        self._rows: dict[str, PullProgress] = {}
        self._drawn = 0
        self._drawn_at = float("-inf")

    def show(self, row: PullProgress) -> None:
        """Take in how far a layer is, and draw if that was not done just now."""
        self._rows[row.digest] = row
        if self._clock() - self._drawn_at >= REDRAW_INTERVAL_S:
            self._draw()

    def close(self) -> None:
        """Draw the last state, and leave the terminal below it."""
        self._draw()

    def _draw(self) -> None:
        lines = bar_lines(self._rows.values(), columns=self._columns, room=self._lines - 1)
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = "".join(f"\r{_ERASE_LINE}{line}\n" for line in lines)
        sys.stdout.write(up + text + (_ERASE_BELOW if len(lines) < self._drawn else ""))
        sys.stdout.flush()
        self._drawn = len(lines)
        self._drawn_at = self._clock()


def open_progress() -> Lines | Bars:
    """What suits where our output goes."""
    size = terminal_size()
    return Lines() if size is None else Bars(size.columns, size.lines)


def bar_lines(rows: Iterable[PullProgress], *, columns: int, room: int) -> list[str]:
    """A line for each layer, at most ``room`` of them and as many characters each as fit."""
    all_rows = list(rows)
    shown: Sequence[PullProgress] = all_rows
    if len(all_rows) > room:
        ended = [row for row in all_rows if row.state in ENDED]
        going = [row for row in all_rows if row.state not in ENDED]
        places = max(0, room - 1)
        left = max(0, places - len(going))
        kept = {row.digest for row in [*going[:places], *ended[len(ended) - left :]]}
        shown = [row for row in all_rows if row.digest in kept]
    lines = [bar_line(row) for row in shown]
    if len(shown) < len(all_rows):
        done = sum(row.state in ENDED for row in all_rows)
        lines.append(f"{len(all_rows)} layers, {done} of them done")
    return [printable(line)[: columns - 1] for line in lines][: max(0, room)]


def bar_line(row: PullProgress) -> str:
    """``a1b2c3d4e5f6  [=====>      ]  3MB/7MB  2MB from peers, 1MB from the registry  35MB/s``."""
    if row.state in ENDED:
        return layer_line(row)
    size = row.size_bytes
    fraction = min(1.0, row.bytes_done / size) if size else 0.0
    filled = int(fraction * BAR_CHARS)
    tip = ">" if 0 < fraction < 1 else ""
    bar = ("=" * filled + tip)[:BAR_CHARS].ljust(BAR_CHARS)
    total = UNKNOWN if size is None else human_size(size)
    parts = [short_digest(row.digest), f"[{bar}]", f"{human_size(row.bytes_done)}/{total}"]
    if row.state == "fetching":
        parts += [_from(row.bytes_from_peers, row.bytes_from_origin)]
        parts += [f"{human_size(int(row.rate_bytes_per_s))}/s"]
    else:
        parts += [WORDS[row.state]]
    return "  ".join(part for part in parts if part)


def layer_line(row: PullProgress) -> str:
    """``a1b2c3d4e5f6  done  7MB, 6MB from peers, 1MB from the registry``."""
    parts = [
        "" if row.size_bytes is None else human_size(row.size_bytes),
        _from(row.bytes_from_peers, row.bytes_from_origin),
    ]
    rest = ", ".join(part for part in parts if part)
    head = f"{short_digest(row.digest)}  {WORDS[row.state]}"
    return f"{head}  {rest}" if rest else head


def done_line(done: PullDone) -> str:
    """What a pull was, in a line."""
    image = f"{done.reference} is image {short_digest(done.image)}"
    fetched = _from(done.bytes_from_peers, done.bytes_from_origin) or "nothing had to be fetched"
    return f"{image}: {fetched}, in {_seconds(done.duration_s)}"


def _from(peers: int, origin: int) -> str:
    parts = [
        f"{human_size(peers)} from peers" if peers else "",
        f"{human_size(origin)} from the registry" if origin else "",
    ]
    return ", ".join(part for part in parts if part)


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s < 60 else human_duration(duration_s).lower()
