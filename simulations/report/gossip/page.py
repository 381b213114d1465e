"""A run as files that a person opens: one HTML page that needs nothing else, plots, tables."""

import base64
import csv
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from simulations.gossip.host import KINDS
from simulations.report.gossip.plots import draw
from simulations.report.gossip.record import Record
from simulations.report.gossip.summary import Figure, figures

PAGE: Final = "index.html"
MARKS_SHOWN_MAX: Final = 200

_MEANINGS: Final = {
    "dissemination.png": "Time is counted from the moment that a host's engine has a new image (or "
    "loses one). The slowest of all news is rarely the protocol's fault alone: look at what had "
    "befallen the cluster.",
    "detection.png": "A thin line for each failure. It begins at the first verdict; how steep it "
    "is shows how fast a verdict spreads.",
    "timeline.png": "Grey is what was so, colours are how the others saw it, the paler the fewer. "
    "A colour without grey above it is a mistake, or news that came late.",
    "traffic.png": "All that a host put on its link, Ethernet, IP, UDP and TCP heads included.",
    "kinds.png": "The mean host, by what the packets are (docs/protocol.md). A burst above the "
    "scale is cut off.",
}

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


def write_report(record: Record, folder: Path) -> Path:
    """Write the record, its page, plots and tables; what was there by these names is replaced.

    Returns: the page.
    Raises: SettingsError where matplotlib is missing; OSError where the folder cannot be written.
    """
    plots = draw(record)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    _write_tables(record, folder)
    return write_page(folder, plots, _page(record, plots))


def write_page(folder: Path, plots: Mapping[str, tuple[str, bytes]], text: str) -> Path:
    """Write a page and its plots. Returns: the page."""
    for name, (_, data) in plots.items():
        (folder / name).write_bytes(data)
    page = folder / PAGE
    page.write_text(text, encoding="utf-8")
    return page


def _page(record: Record, plots: dict[str, tuple[str, bytes]]) -> str:
    more = ""
    if record.marks:
        more = f"<h2>What befell the cluster</h2>\n<pre>{escape(_marks(record))}</pre>"
    return page_text(record.title, record.about, figures(record), plots, _MEANINGS, more)


def page_text(
    title: str,
    about: Mapping[str, str],
    rows: Sequence[Figure],
    plots: Mapping[str, tuple[str, bytes]],
    meanings: Mapping[str, str],
    more: str = "",
) -> str:
    """A page that needs nothing else.

    Args:
      about: what was run, in words. rows: the figures above the plots.
      plots: titles and PNGs by file name. meanings: a sentence or two for each.
      more: HTML below.
    """
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
        source = base64.b64encode(data).decode()
        parts += [
            f"<h2>{escape(heading)}</h2>",
            f'<img alt="{escape(heading)}" src="data:image/png;base64,{source}">',
            f'<p class="meaning">{escape(meanings[name])}</p>',
        ]
    if more:
        parts.append(more)
    return "\n".join([*parts, "</body></html>", ""])


def _figure_table(rows: Sequence[Figure]) -> str:
    lines = [
        f'<tr><th>{escape(row.name)}</th><td class="value">{escape(row.value)}</td>'
        f'<td class="meaning">{escape(row.meaning)}</td></tr>'
        for row in rows
    ]
    return "<table>" + "".join(lines) + "</table>"


def _marks(record: Record) -> str:
    shown = record.marks[:MARKS_SHOWN_MAX]
    lines = [f"{m.at:10.3f}  {_who(m.host):8} {m.text}" for m in shown]
    if len(record.marks) > len(shown):
        lines.append(f"… and {len(record.marks) - len(shown)} more")
    return "\n".join(lines)


def _who(number: int) -> str:
    return f"h{number}" if number >= 0 else "network"


def _write_tables(record: Record, folder: Path) -> None:
    write_csv(
        folder / "summary.csv", ("figure", "value", "meaning"), (list(f) for f in figures(record))
    )
    write_csv(
        folder / "news.csv",
        ("owner", "at_s", "public", "know", "half_s", "last_s"),
        (
            (f"h{n.owner}", f"{n.at:.6f}", n.public, len(n.after_s), *_half_and_last(n.after_s))
            for n in record.news
        ),
    )
    write_csv(
        folder / "failures.csv",
        ("host", "how", "at_s", "witnesses", "know", "suspected_s", "first_s", "last_s"),
        (
            (
                f"h{f.host}",
                f.how,
                f"{f.at:.6f}",
                f.witnesses,
                len(f.down_s),
                _seconds(f.suspected_s),
                _seconds(f.down_s[0] if f.down_s else None),
                _seconds(f.down_s[-1] if f.down_s else None),
            )
            for f in record.failures
        ),
    )
    write_csv(
        folder / "false-verdicts.csv",
        ("at_s", "observer", "subject", "observer_hampered"),
        (
            (f"{v.at:.6f}", f"h{v.observer}", f"h{v.subject}", int(v.hampered))
            for v in record.false_verdicts
        ),
    )
    used = [kind for kind in KINDS.values() if any(kind in s.by_kind for s in record.samples)]
    write_csv(
        folder / "traffic.csv",
        (
            *("at_s", "online", "suspected", "missed"),
            *("least_bytes", "median_bytes", "p99_bytes", "most_bytes"),
            *(f"{kind}_{what}" for kind in used for what in ("packets", "bytes")),
        ),
        (
            (
                *(f"{s.at:.3f}", s.online, s.suspected, s.missed, *s.sent_bytes),
                *(number for kind in used for number in s.by_kind.get(kind, (0, 0))),
            )
            for s in record.samples
        ),
    )
    write_csv(
        folder / "states.csv",
        ("host", "from_s", "to_s", "state", "share"),
        (
            (f"h{s.host}", f"{s.start:.3f}", f"{s.end:.3f}", s.state, s.share)
            for s in [*record.truth, *record.seen]
        ),
    )


def _half_and_last(after_s: Sequence[float]) -> tuple[str, str]:
    if not after_s:
        return "", ""
    return f"{after_s[(len(after_s) - 1) // 2]:.6f}", f"{after_s[-1]:.6f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a head."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
