"""Plain tables and JSON on standard output.

Tables are our own: rich's take 125 ms to import and tabulate's 20 to 50, of the 150 ms in which
``beiran node list`` answers, and neither counts the names that it leaves out.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

GAP: Final = "   "  # as the docker CLI
CELL_CHARS_MIN: Final = 12  # a short digest; no column is made narrower than this
ELLIPSIS: Final = "…"


class Names:
    """A list of names that counts the ones for which there is no room."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def fit(self, room: int | None) -> str:
        """``a, b, c``, or ``a (+2)``. The first name is always among them.

        Args:
          room: characters; None for no limit.
        """
        whole = ", ".join(self._names)
        if room is None or len(whole) <= room or len(self._names) < 2:
            return whole
        shown = len(self._names) - 1
        while shown > 1 and len(self._short(shown)) > room:
            shown -= 1
        return self._short(shown)

    def _short(self, shown: int) -> str:
        return f"{', '.join(self._names[:shown])} (+{len(self._names) - shown})"


Columns = Sequence[str]
Rows = Sequence[Sequence[str | Names]]


def print_table(columns: Columns, rows: Rows) -> None:
    """Print rows under their columns, aligned, each no wider than the terminal."""
    sys.stdout.write("".join(table_lines(columns, rows, room=terminal_columns())))


def table_lines(columns: Columns, rows: Rows, *, room: int | None) -> list[str]:
    """Format a table.

    Args:
      room: characters of a line; None for no limit. Where rows are wider, the widest columns are
        cut first, down to ``CELL_CHARS_MIN`` each.

    Returns: the lines, each with its newline.
    """
    cells = [[_shown(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    if room is not None:
        _narrow(widths, room - len(GAP) * (len(widths) - 1))
    lines = []
    for row in (columns, *rows):
        parts = [
            _pad(_cut(_shown(cell, width), width), width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append(GAP.join(parts).rstrip() + "\n")
    return lines


def _narrow(widths: list[int], room: int) -> None:
    """Take characters from the widest columns until all fit ``room``."""
    while sum(widths) > room:
        widest = max(widths)
        if widest <= CELL_CHARS_MIN:
            return
        second = max([width for width in widths if width < widest], default=0)
        for place, width in enumerate(widths):
            if width == widest and sum(widths) > room:
                excess = sum(widths) - room
                widths[place] = max(CELL_CHARS_MIN, second, widest - excess)
        if widest == max(widths):
            return


def print_fields(fields: Iterable[tuple[str, str | Sequence[str]]]) -> None:
    """Print names and values, a line each. Further values of a name go below its first."""
    rows: list[tuple[str, str]] = []
    for name, values in fields:
        several = [values] if isinstance(values, str) else list(values)
        rows += [(name if place == 0 else "", value) for place, value in enumerate(several)]
    width = max(_width(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{_pad(name, width)}{GAP}{_shown(value)}".rstrip() + "\n")


def print_json(value: object) -> None:
    """Print an answer as the API gave it, as JSON indented by two spaces."""
    import msgspec

    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(data.decode() + "\n")


def print_json_line(value: object) -> None:
    """Print one object as a line of JSON, and flush."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line, and flush."""
    sys.stdout.write(_shown(text) + "\n")
    sys.stdout.flush()


def terminal_columns() -> int | None:
    """The width of the terminal at standard output; None when it is no terminal."""
    size = terminal_size()
    return None if size is None else size.columns


def terminal_size() -> os.terminal_size | None:
    """The size of the terminal at standard output; None when it is no terminal."""
    if not sys.stdout.isatty():
        return None
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None
    return size if size.columns and size.lines else None


def printable(text: str) -> str:
    """Replace control characters by ``?``.

    Names and tags come from other hosts, which must not send sequences to this terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def _shown(cell: str | Names, room: int | None = None) -> str:
    return printable(cell if isinstance(cell, str) else cell.fit(room))


def _cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns of the terminal, with an ellipsis where it is cut."""
    if _width(text) <= width:
        return text
    while text and _width(text) > width - 1:
        text = text[: min(len(text) - 1, width - 1)]
    return text + ELLIPSIS


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(2 if east_asian_width(c) in "WF" else 0 if combining(c) else 1 for c in text)
