"""Shows how far a pull is: bars on a terminal, one line per finished layer elsewhere."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from beiran.api.models import PullDone, PullProgress
from beiran_cli.names import short_digest
from beiran_cli.table import print_line, terminal_size
from beiran_cli.units import UNKNOWN, human_duration, human_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

BAR_CHARS: Final = 20  # digest, bar, sizes, sources and rate of a layer fit 80 columns
REDRAW_INTERVAL_S: Final = 0.1  # as rich's own default, 10 times a second
ENDED: Final = ("done", "there")

WORDS: Final = {
    "waiting": "waiting",
    "fetching": "fetching",
    "verifying": "verifying",
    "done": "done",
    "there": "already there",
}


class Lines:
    """Prints a line for each layer that is done. For output that is no terminal."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def show(self, row: PullProgress) -> None:
        """Take the newest state of a layer."""
        if row.state in ENDED and row.digest not in self._printed:
            self._printed.add(row.digest)
            print_line(f"{short_digest(row.digest)}  {state_words(row)}")

    def close(self) -> None:
        """Print nothing more: each line stands by itself."""


class Bars:
    """Draws a bar for each layer, in place, and one for the pull as a whole.

    A terminal with fewer lines than the pull has layers shows the unfinished ones.

    Args:
      console: rich's terminal; the one at standard output unless a test says otherwise.
      clock: monotonic seconds.
    """

    def __init__(
        self, console: "Console | None" = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        def text(field: str) -> TextColumn:
            cut = Column(no_wrap=True, overflow="ellipsis")
            return TextColumn(field, style="none", markup=False, table_column=cut)

        self._progress = Progress(
            text("{task.description}"),
            BarColumn(bar_width=BAR_CHARS),
            text("{task.fields[words]}"),
            console=console,
            auto_refresh=False,  # rows arrive several times a second; no thread of rich's
        )
        self._clock = clock
        self._rows: dict[str, PullProgress] = {}
        self._tasks: dict[str, TaskID] = {}
        self._whole = self._progress.add_task("layers", total=None, words="")
        self._drawn_at = float("-inf")
        self._progress.start()

    def show(self, row: PullProgress) -> None:
        """Take the newest state of a layer. Redraws at most every ``REDRAW_INTERVAL_S``."""
        self._rows[row.digest] = row
        if row.digest not in self._tasks:
            head = short_digest(row.digest)
            self._tasks[row.digest] = self._progress.add_task(head, total=None, words="")
        if self._clock() - self._drawn_at >= REDRAW_INTERVAL_S:
            self._draw()

    def close(self) -> None:
        """Draw the last state, and leave the cursor below it."""
        self._draw()
        self._progress.stop()

    def _draw(self) -> None:
        room = self._progress.console.height - 1  # a line for the pull as a whole
        ended = [digest for digest, row in self._rows.items() if row.state in ENDED]
        hidden = set(ended[: max(0, len(self._rows) - room + 1)])
        for digest, row in self._rows.items():
            whole = 1 if row.state in ENDED else row.size_bytes
            self._progress.update(
                self._tasks[digest],
                total=whole,
                completed=1 if row.state in ENDED else row.bytes_done,
                visible=digest not in hidden,
                words=state_words(row),
            )
        self._progress.update(
            self._whole,
            total=len(self._rows),
            completed=len(ended),
            words=f"{len(ended)} of {len(self._rows)} done",
        )
        self._progress.refresh()
        self._drawn_at = self._clock()


def open_progress() -> Lines | Bars:
    """Make the display that suits standard output."""
    return Lines() if terminal_size() is None else Bars()


def state_words(row: PullProgress) -> str:
    """A layer's state in words.

    ``3MB/7MB  2MB peers, 1MB registry  35MB/s`` while it is fetched,
    ``done  7MB, 6MB peers, 1MB registry`` after that.
    """
    source = _source(row.bytes_from_peers, row.bytes_from_origin)
    if row.state in ENDED:
        size = "" if row.size_bytes is None else human_size(row.size_bytes)
        rest = ", ".join(part for part in (size, source) if part)
        return f"{WORDS[row.state]}  {rest}" if rest else WORDS[row.state]
    total = UNKNOWN if row.size_bytes is None else human_size(row.size_bytes)
    parts = [f"{human_size(row.bytes_done)}/{total}"]
    if row.state == "fetching":
        parts += [source, f"{human_size(int(row.rate_bytes_per_s))}/s"]
    else:
        parts += [WORDS[row.state]]
    return "  ".join(part for part in parts if part)


def done_line(done: PullDone) -> str:
    """A finished pull in a line: the image, its sources, the seconds."""
    parts = [
        f"{human_size(done.bytes_from_peers)} from peers" if done.bytes_from_peers else "",
        f"{human_size(done.bytes_from_origin)} from the registry" if done.bytes_from_origin else "",
    ]
    source = ", ".join(part for part in parts if part) or "nothing had to be fetched"
    seconds = done.duration_s
    time_words = f"{seconds:.1f} s" if seconds < 60 else human_duration(seconds).lower()
    return f"{done.reference} is image {short_digest(done.image)}: {source}, in {time_words}"


def _source(peers: int, origin: int) -> str:
    parts = [
        f"{human_size(peers)} peers" if peers else "",
        f"{human_size(origin)} registry" if origin else "",
    ]
    return ", ".join(part for part in parts if part)
