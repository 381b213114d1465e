"""A progress bar on standard error; it shows nothing if that is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WIDTH: Final = 30
COLUMNS_MAX: Final = 110  # of the whole line
EVERY_S: Final = 0.1
ESTIMATE_FROM: Final = 0.02  # below this share the time left is a guess


class Bar:
    """Shows how much of ``total`` is done."""

    def __init__(self, label: str, total: float) -> None:
        self._label = label
        self._total = max(total, 1e-9)
        self._began = time.monotonic()
        self._shown = 0.0
        self._visible = sys.stderr.isatty()

    def to(self, done: float, note: str = "") -> None:
        """Show that ``done`` is done now."""
        now = time.monotonic()
        if not self._visible or now - self._shown < EVERY_S:
            return
        self._shown = now
        share = min(1.0, done / self._total)
        left = ""
        if share > ESTIMATE_FROM:
            left = f"{(now - self._began) * (1 - share) / share:6.0f} s left"
        full = round(share * WIDTH)
        text = f"{self._label} [{'#' * full}{'.' * (WIDTH - full)}] {share:4.0%} {left} {note}"
        sys.stderr.write(f"\r\x1b[K{text[:COLUMNS_MAX]}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the bar from the terminal."""
        if self._visible:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def bar(label: str, total: float) -> Iterator[Bar]:
    """Show a bar while the block runs."""
    shown = Bar(label, total)
    try:
        yield shown
    finally:
        shown.clear()
