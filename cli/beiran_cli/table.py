"""Plain tables and JSON on standard output."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

GAP: Final = "   "  # as the docker CLI
LIST_CHARS_MIN: Final = 12  # a list of names is not squeezed further than this


class Names:
    """A list of names that says how many more there are where they do not all fit."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def fit(self, room: int | None) -> str:
        """``a, b, c``, or ``a (+2)``. Always the first name, whatever the room."""
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
    """Print rows under their columns, aligned; what is last takes the room that is left."""
    sys.stdout.write("".join(table_lines(columns, rows, room=terminal_columns())))


def table_lines(columns: Columns, rows: Rows, *, room: int | None) -> list[str]:
    """The lines of a table, each with its newline. ``room`` is in characters, None unlimited."""
    all_rows: list[Sequence[str | Names]] = [columns, *rows]
    heads = [[_shown(cell) for cell in row[:-1]] for row in all_rows]
    widths = [max(map(_width, column)) for column in zip(*heads, strict=True)]
    left = None
    if room is not None:
        left = max(LIST_CHARS_MIN, room - sum(widths) - len(GAP) * len(widths))
    lines = []
    for head, row in zip(heads, all_rows, strict=True):
        parts = [_pad(text, width) for text, width in zip(head, widths, strict=True)]
        lines.append(GAP.join([*parts, _shown(row[-1], left)]).rstrip() + "\n")
    return lines


def print_fields(fields: Iterable[tuple[str, str | Sequence[str]]]) -> None:
    """Print names and values, a line each; more values of one name go below the first."""
    rows: list[tuple[str, str]] = []
    for name, values in fields:
        several = [values] if isinstance(values, str) else list(values)
        rows += [(name if place == 0 else "", value) for place, value in enumerate(several)]
    width = max(_width(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{_pad(name, width)}{GAP}{_shown(value)}".rstrip() + "\n")


def print_json(value: object) -> None:
    """Print an answer's rows as the API has them, indented by two."""
    import msgspec

    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(data.decode() + "\n")


def print_json_line(value: object) -> None:
    """Print one object on one line, at once."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line, at once."""
    sys.stdout.write(_shown(text) + "\n")
    sys.stdout.flush()


def terminal_columns() -> int | None:
    """How many characters a line may have; None when no person reads it."""
    size = terminal_size()
    return None if size is None else size.columns


def terminal_size() -> os.terminal_size | None:
    """Columns and lines of the terminal that our output goes to; None when it is none."""
    if not sys.stdout.isatty():
        return None
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None
    return size if size.columns and size.lines else None


def printable(text: str) -> str:
    """``text``, with ``?`` for what would not be shown but obeyed.

    Names and tags come from other hosts: none of them may speak to this terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def _shown(cell: str | Names, room: int | None = None) -> str:
    return printable(cell if isinstance(cell, str) else cell.fit(room))


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(2 if east_asian_width(c) in "WF" else 0 if combining(c) else 1 for c in text)
