"""A report as files that a browser and a spreadsheet open: one HTML page, plots, tables."""

import base64
import csv
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

PAGE: Final = "index.html"

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #2b2f36; background: #fff; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid #e5e7eb; }
td.value { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.meaning, p.meaning, .about { color: #6b7280; }
img { max-width: 100%; height: auto; } pre { overflow-x: auto; font-size: 12px; }
"""


class Figure(NamedTuple):
    """One line of a report: a name, a value with its unit, and its meaning."""

    name: str
    value: str
    meaning: str = ""


def write_page(
    folder: Path,
    title: str,
    about: Mapping[str, str],
    rows: Sequence[Figure],
    plots: Mapping[str, tuple[str, bytes]],
    meanings: Mapping[str, str],
    more: str = "",
) -> Path:
    """Write a page that needs no other file, its plots, and its figures as a table.

    Args:
      about: parameters of the run. rows: the figures above the plots.
      plots: titles and PNGs by file name. meanings: a sentence or two for each plot.
      more: HTML at the end.

    Returns: the page.
    """
    write_csv(folder / "summary.csv", ("figure", "value", "meaning"), rows)
    words = " · ".join(f"{escape(k)} {escape(v)}" for k, v in about.items())
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{words}</p>',
        _figure_table(rows),
    ]
    for name, (heading, data) in plots.items():
        (folder / name).write_bytes(data)
        source = base64.b64encode(data).decode()
        parts += [
            f"<h2>{escape(heading)}</h2>",
            f'<img alt="{escape(heading)}" src="data:image/png;base64,{source}">',
            f'<p class="meaning">{escape(meanings[name])}</p>',
        ]
    if more:
        parts.append(more)
    page = folder / PAGE
    page.write_text("\n".join([*parts, "</body></html>", ""]), encoding="utf-8")
    return page


def _figure_table(rows: Sequence[Figure]) -> str:
    lines = [
        f'<tr><th>{escape(row.name)}</th><td class="value">{escape(row.value)}</td>'
        f'<td class="meaning">{escape(row.meaning)}</td></tr>'
        for row in rows
    ]
    return "<table>" + "".join(lines) + "</table>"


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a head."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
