"""A bar on the terminal for long work; nothing where standard error is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WIDTH: Final = 30
EVERY_S: Final = 0.1


class Bar:
    """How much of ``total`` is done."""

    def __init__(self, label: str, total: float) -> None:
        self._label = label
        self._total = max(total, 1e-9)
        self._began = time.monotonic()
        self._shown = 0.0
        self._visible = sys.stderr.isatty()

    def to(self, done: float, note: str = "") -> None:
        """So much is done now."""
        now = time.monotonic()
        if not self._visible or now - self._shown < EVERY_S:
            return
        self._shown = now
        share = min(1.0, done / self._total)
        left = ""
        if share > 0.02:
            left = f"{(now - self._began) * (1 - share) / share:6.0f} s left"
        full = round(share * WIDTH)
        text = f"{self._label} [{'#' * full}{'.' * (WIDTH - full)}] {share:4.0%} {left} {note}"
        sys.stderr.write(f"\r\x1b[K{text[:110]}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take it off the terminal."""
        if self._visible:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def bar(label: str, total: float) -> Iterator[Bar]:
    """A bar for the time of this block."""
    shown = Bar(label, total)
    try:
        yield shown
    finally:
        shown.clear()
