"""The report of a cluster's run: its page, its plots, and the tables they are drawn from."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from simulations.gossip.host import KINDS
from simulations.report.gossip.plots import draw
from simulations.report.gossip.record import Record
from simulations.report.gossip.summary import figures
from simulations.report.page import write_csv, write_page

MARKS_SHOWN_MAX: Final = 200

_MEANINGS: Final = {
    "dissemination.png": "Time is counted from the moment that a host's engine has a new image (or "
    "loses one). If an update was slow, look at the operations that the cluster met before it.",
    "detection.png": "A thin line for each failure. It begins at the first verdict; its slope "
    "shows how fast the verdict spreads.",
    "timeline.png": "Grey is the true state of a host. Colours are its state as others saw it, "
    "paler if fewer did. A colour without grey above it is a false or a late verdict.",
    "traffic.png": "All bytes that a host sent, Ethernet, IP, UDP and TCP headers included.",
    "kinds.png": "The mean host, by kind of packet (protocol.md). Bursts above the scale "
    "are cut off.",
}


def write_report(record: Record, folder: Path) -> Path:
    """Write the record, its page, plots and tables; files with these names are replaced.

    Returns: the page.
    Raises: SettingsError if matplotlib is missing; OSError if the folder cannot be written.
    """
    plots = draw(record)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    _write_tables(record, folder)
    more = ""
    if record.marks:
        more = f"<h2>Operations and faults</h2>\n<pre>{escape(_marks(record))}</pre>"
    rows = figures(record)
    return write_page(folder, record.title, record.about, rows, plots, _MEANINGS, more)


def _marks(record: Record) -> str:
    shown = record.marks[:MARKS_SHOWN_MAX]
    lines = [f"{m.at:10.3f}  {_subject(m.host):8} {m.text}" for m in shown]
    if len(record.marks) > len(shown):
        lines.append(f"… and {len(record.marks) - len(shown)} more")
    return "\n".join(lines)


def _subject(number: int) -> str:
    return f"h{number}" if number >= 0 else "network"


def _write_tables(record: Record, folder: Path) -> None:
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
