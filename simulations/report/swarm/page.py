"""The report of a crowd: its page, its plots, and the tables they are drawn from."""

from pathlib import Path
from typing import Final

from simulations.report.page import write_csv, write_page
from simulations.report.swarm.plots import draw_crowd
from simulations.report.swarm.record import FILE, CrowdRecord
from simulations.report.swarm.summary import crowd_figures

_MEANINGS: Final = {
    "done.png": "The dashed line is the fluid bound, the least time in which all hosts can have "
    "the image. Hosts that come late or leave early move the lines and count in the bound.",
    "origin.png": "One copy must leave the origin in any case. The origin should send it at the "
    "full rate of its link, and nothing after it.",
    "waste.png": "Bytes that a host received beyond the image: pieces that arrived twice, fetches "
    "that were given up, and bytes from liars. Only hosts that ended with the image.",
    "given.png": "On average each host sends one copy, less the copies that the origin sent.",
}


def is_crowd(folder: Path) -> bool:
    """Whether the record there is one of a crowd."""
    return (folder / FILE).exists()


def write_crowd_report(record: CrowdRecord, folder: Path) -> Path:
    """Write the record, its page, plots and tables; files with these names are replaced.

    Returns: the page.
    Raises: SettingsError if matplotlib is missing; OSError if the folder cannot be written.
    """
    plots = draw_crowd(record)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    _write_tables(record, folder)
    rows = crowd_figures(record)
    return write_page(folder, record.title, record.about, rows, plots, _MEANINGS)


def _write_tables(record: CrowdRecord, folder: Path) -> None:
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
