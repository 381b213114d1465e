"""The plots of a crowd."""

from typing import TYPE_CHECKING, Final

from simulations.report.plotting import (
    INK,
    KIND_COLOURS,
    LINES,
    draw_each,
    label_axes,
    new_figure,
)
from simulations.report.swarm.record import PLAIN, CrowdRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES_DRAWN_MAX: Final = len(KIND_COLOURS)
BOUND_COLOUR: Final = "#9aa1ab"


def draw_crowd(record: CrowdRecord) -> dict[str, tuple[str, bytes]]:
    """Return titles and PNGs by file name, of the plots that the crowd has data for.

    Raises: SettingsError if matplotlib is not installed.
    """
    return draw_each(
        record,
        ("done.png", "Hosts that have the image", done),
        ("origin.png", "Bytes from the origin", origin),
        ("waste.png", "Waste of each host", waste),
        ("given.png", "Bytes that each host sent", given),
    )


def done(record: CrowdRecord) -> "Figure | None":
    """Share of hosts that have the image, and of all pieces, over time."""
    samples = record.samples
    most = max((sample.want for sample in samples), default=0)
    if not most or not record.pieces:
        return None
    figure, (axes,) = new_figure(3.8)
    times = [sample.at for sample in samples]
    in_all = record.pieces * most
    axes.plot(
        times,
        [100 * sample.pieces / in_all for sample in samples],
        color=LINES[1],
        linewidth=1.6,
        label="pieces that hosts have, of all that they want",
    )
    if any(sample.want != most for sample in samples):
        axes.plot(
            times,
            [100 * sample.want / most for sample in samples],
            color=BOUND_COLOUR,
            linewidth=1.4,
            drawstyle="steps-post",
            label="hosts that want the image, or have it",
        )
    axes.plot(
        times,
        [100 * sample.done / most for sample in samples],
        color=LINES[0],
        linewidth=2,
        drawstyle="steps-post",
        label="hosts that have all of it",
    )
    _bound(axes, record)
    label_axes(axes, "seconds since the first wanted it", "%")
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def origin(record: CrowdRecord) -> "Figure | None":
    """Bytes that the origin sent over time, in copies of the image."""
    if not record.image_bytes or not record.samples:
        return None
    figure, (axes,) = new_figure(3.0)
    axes.plot(
        [sample.at for sample in record.samples],
        [sample.origin_bytes / record.image_bytes for sample in record.samples],
        color=LINES[2],
        linewidth=2,
    )
    axes.axhline(1.0, color=BOUND_COLOUR, linewidth=1, linestyle="--")
    _bound(axes, record)
    label_axes(axes, "seconds since the first wanted it", "copies of the image")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def waste(record: CrowdRecord) -> "Figure | None":
    """Bytes that each host received beyond one copy, in % of the image, the most first."""
    size = record.image_bytes
    return _by_host(
        record,
        {
            host.name: 100 * host.wasted_bytes / size
            for host in record.hosts
            if size and host.took_s is not None
        },
        "% of the image",
    )


def given(record: CrowdRecord) -> "Figure | None":
    """Bytes that each host sent to others, in copies of the image, the most first."""
    size = record.image_bytes
    return _by_host(
        record,
        {host.name: host.given_bytes / size for host in record.hosts if size},
        "copies of the image",
    )


def _by_host(record: CrowdRecord, values: dict[str, float], unit: str) -> "Figure | None":
    if not values:
        return None
    figure, (axes,) = new_figure(3.0)
    roles = {host.name: host.role for host in record.hosts}
    ordered = sorted(values, key=lambda name: -values[name])
    kinds = sorted(set(roles.values()), key=lambda role: (role != PLAIN, role))
    groups = kinds[: ROLES_DRAWN_MAX - 1] if len(kinds) > ROLES_DRAWN_MAX else kinds
    for colour, group in zip(KIND_COLOURS, [*groups, None], strict=False):
        ranks = [
            rank
            for rank, name in enumerate(ordered, start=1)
            if (roles[name] == group if group is not None else roles[name] not in groups)
        ]
        if ranks:
            heights = [values[ordered[rank - 1]] for rank in ranks]
            label = f"{len(ranks):,} {group or 'others'}"
            axes.bar(ranks, heights, width=1.0, color=colour, label=label)
    label_axes(axes, "hosts, the most first", unit)
    axes.set_xlim(0.5, len(ordered) + 0.5)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def _bound(axes: "Axes", record: CrowdRecord) -> None:
    """Draw the bounds."""
    axes.axvline(record.bound_s, color=INK, linewidth=1, linestyle="--", label="the fluid bound")
    if record.whole_pieces_s is not None:
        axes.axvline(
            record.whole_pieces_s,
            color=INK,
            linewidth=1,
            linestyle=":",
            label="the bound with whole pieces",
        )
