"""A crowd as files that a person opens: one HTML page that needs nothing else, plots, tables."""

from pathlib import Path
from typing import Final

from simulations.report.gossip.page import page_text, write_csv, write_page
from simulations.report.swarm.plots import draw_crowd
from simulations.report.swarm.record import FILE, CrowdRecord
from simulations.report.swarm.summary import crowd_figures

_MEANINGS: Final = {
    "done.png": "Dashed is the least time in which all could have it, were bytes a fluid that is "
    "passed on as it comes. Who comes late or goes early moves the lines, and counts in the bound.",
    "origin.png": "One copy is what the first of a crowd costs in any case. It should be given at "
    "the full rate of the origin's link, and nothing after it.",
    "waste.png": "What came to a host beyond the image: pieces that came twice, bytes of fetches "
    "that were given up, and what liars sent. Only hosts that ended with the image.",
    "given.png": "A crowd in which all do the same gives one copy a host in the mean, but for the "
    "copies that the origin gave.",
}


def is_crowd(folder: Path) -> bool:
    """Whether the record there is one of a crowd."""
    return (folder / FILE).exists()


def write_crowd_report(record: CrowdRecord, folder: Path) -> Path:
    """Write the record, its page, plots and tables; what was there by these names is replaced.

    Returns: the page.
    Raises: SettingsError where matplotlib is missing; OSError where the folder cannot be written.
    """
    plots = draw_crowd(record)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    _write_tables(record, folder)
    rows = crowd_figures(record)
    return write_page(folder, plots, page_text(record.title, record.about, rows, plots, _MEANINGS))


def _write_tables(record: CrowdRecord, folder: Path) -> None:
    write_csv(
        folder / "summary.csv",
        ("figure", "value", "meaning"),
        (list(row) for row in crowd_figures(record)),
    )
    write_csv(
        folder / "hosts.csv",
        (
            *("host", "role", "came_s", "took_s", "received_bytes", "from_origin_bytes"),
            *("wasted_bytes", "given_bytes", "datagram_bytes"),
        ),
        (
            (
                *(h.name, h.role, _seconds(h.came_at), _seconds(h.took_s)),
                *(h.received_bytes, h.from_origin_bytes, h.wasted_bytes),
                *(h.given_bytes, h.datagram_bytes),
            )
            for h in record.hosts
        ),
    )
    write_csv(
        folder / "progress.csv",
        ("at_s", "want", "done", "pieces", "origin_bytes"),
        ((f"{s.at:.3f}", s.want, s.done, s.pieces, s.origin_bytes) for s in record.samples),
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
