"""The plots of a cluster's run."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from simulations.report.gossip.record import Failure, Record, Sample, Span
from simulations.report.gossip.summary import times_to
from simulations.report.plotting import INK, KIND_COLOURS, LINES, draw_each, label_axes, new_figure
from simulations.report.record import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARES: Final = tuple(i / 200 for i in range(1, 201))
ROWS_MAX: Final = 60
FAILURES_DRAWN_MAX: Final = 200
MARKS_DRAWN_MAX: Final = 40
MANY: Final = 100
"""Fewer values have no 99th percentile."""
KINDS_DRAWN_MAX: Final = 9

TRUTH_COLOURS: Final = {
    "killed": "#4b5563",
    "off": "#111827",
    "leaving": "#d1d5db",
    "ended": "#9ca3af",
    "stopped": "#d8c9a3",
    "blocked": "#d8c9a3",
}
SEEN_COLOURS: Final = {"suspect": "#f59e0b", "down": "#dc2626", "left": "#60a5fa"}


def draw(record: Record) -> dict[str, tuple[str, bytes]]:
    """Return titles and PNGs by file name, of the plots that the run has data for.

    Raises: SettingsError if matplotlib is not installed.
    """
    return draw_each(
        record,
        ("dissemination.png", "How updates spread", dissemination),
        ("detection.png", "How failures are detected", detection),
        ("timeline.png", "States of hosts", timeline),
        ("traffic.png", "Bytes that a host sends", traffic),
        ("kinds.png", "Traffic by kind", kinds),
    )


def dissemination(record: Record) -> "Figure | None":
    """Share of hosts that know over time: the median update, the slowest in a hundred, the worst.

    A line ends at the share that this many updates never exceeded.
    """
    news = [one for one in record.news if one.public and one.after_s]
    if not news:
        return None
    figure, (axes,) = new_figure(3.6)
    lines = [(f"median of {len(news):,} updates", 0.5, LINES[0], "-")]
    if len(news) >= MANY:
        lines.append(("99th percentile", 0.99, LINES[1], "-"))
    lines.append(("worst", 1.0, LINES[2], ":"))
    by_share = [(share, _or_never(times_to(news, share), len(news))) for share in SHARES]
    for label, rank, colour, style in lines if len(news) > 1 else lines[:1]:
        points = [(100 * share, 1000 * quantile(took, rank)) for share, took in by_share]
        reached = [(share, ms) for share, ms in points if ms < math.inf]
        axes.plot(
            [0.0, *(ms for _, ms in reached)],
            [0.0, *(share for share, _ in reached)],
            color=colour,
            linestyle=style,
            linewidth=2,
            drawstyle="steps-post",
            label=label,
        )
    label_axes(axes, "milliseconds since it happened", "% of the other hosts that know")
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _or_never(times: list[float], count: int) -> list[float]:
    return times + [math.inf] * (count - len(times))


def detection(record: Record) -> "Figure | None":
    """Share of hosts that have the failed one offline, over time; each failure and the median."""
    failures = [f for f in record.failures if f.down_s and f.witnesses]
    hows = sorted({failure.how for failure in failures})
    if not hows:
        return None
    figure, all_axes = new_figure(0.8 + 2.4 * len(hows), rows=len(hows))
    for how, axes, colour in zip(hows, all_axes, LINES, strict=False):
        some = [f for f in failures if f.how == how]
        for failure in some[:FAILURES_DRAWN_MAX]:
            shares = [100 * (i + 1) / failure.witnesses for i in range(len(failure.down_s))]
            axes.plot(
                [failure.down_s[0], *failure.down_s],
                [0.0, *shares],
                color=colour,
                alpha=1.0 if len(some) == 1 else 0.25,
                linewidth=2 if len(some) == 1 else 1,
                drawstyle="steps-post",
                label=f"one host {how}" if len(some) == 1 else None,
            )
        if len(some) > 1:
            median_s, median_shares = _median_detection(some)
            label = f"{len(some):,} hosts {how}: median"
            axes.plot(median_s, median_shares, color=colour, linewidth=2.4, label=label)
        label_axes(axes, "seconds since the failure", "% of the others\nthat have it offline")
        axes.set_ylim(0, 103)
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _median_detection(failures: Sequence[Failure]) -> tuple[list[float], list[float]]:
    times, shares = [], []
    for share in SHARES:
        reached = sorted(
            f.down_s[need - 1]
            for f in failures
            if len(f.down_s) >= (need := max(1, -int(-share * f.witnesses // 1)))
        )
        median = quantile(_or_never(reached, len(failures)), 0.5)
        if median < math.inf:
            times.append(median)
            shares.append(100 * share)
    return times, shares


def timeline(record: Record) -> "Figure | None":
    """Hosts that something happened to: what was so (grey), and how others saw it (colours)."""
    if not record.seconds:
        return None
    numbers = sorted({span.host for span in [*record.truth, *record.seen]})
    shown, left_out = numbers[:ROWS_MAX], len(numbers) - ROWS_MAX
    height_in = min(9.0, 2.4 + 0.17 * len(shown))
    figure, (states, counts) = new_figure(height_in, rows=2, heights=(height_in - 1.6, 1.1))
    row_of = {number: row for row, number in enumerate(shown)}
    _bars(states, [s for s in record.truth if s.host in row_of], row_of, TRUTH_COLOURS, -0.42)
    _bars(states, [s for s in record.seen if s.host in row_of], row_of, SEEN_COLOURS, 0.02)
    states.set_ylim(len(shown) - 0.4, -0.6)
    states.set_yticks(range(len(shown)), [f"h{number}" for number in shown], fontsize=7)
    states.set_xlim(0, record.seconds)
    states.grid(visible=False, axis="y")
    states.tick_params(labelbottom=False)
    for at in sorted({mark.at for mark in record.marks if mark.host < 0})[:MARKS_DRAWN_MAX]:
        for axes in (states, counts):
            axes.axvline(at, color="#6b7280", linewidth=0.8, linestyle="--")
    _legend(states, record, left_out)
    times = [sample.at for sample in record.samples]
    counts.plot(times, [sample.online for sample in record.samples], color=LINES[0], label="online")
    views = [sample.missed / max(1, sample.online) for sample in record.samples]
    counts.plot(times, views, color=SEEN_COLOURS["down"], label="offline, as the mean host sees it")
    counts.set_xlim(0, record.seconds)
    counts.set_ylim(bottom=0)
    counts.legend(frameon=False, fontsize=8, loc="center right")
    label_axes(counts, "seconds", "hosts")
    return figure


def _bars(
    axes: "Axes",
    spans: Sequence[Span],
    row_of: dict[int, int],
    colours: dict[str, str],
    top: float,
) -> None:
    for span in spans:
        axes.broken_barh(
            [(span.start, span.end - span.start)],
            (row_of[span.host] + top, 0.4),
            facecolors=colours.get(span.state, "#9ca3af"),
            alpha=0.25 + 0.75 * span.share,
        )


def _legend(axes: "Axes", record: Record, left_out: int) -> None:
    from matplotlib.patches import Patch

    states = {span.state for span in record.truth}
    seen = {span.state for span in record.seen}
    handles = [
        Patch(color=c, label=f"is {name}") for name, c in TRUTH_COLOURS.items() if name in states
    ]
    handles += [
        Patch(color=c, label=f"seen {name}") for name, c in SEEN_COLOURS.items() if name in seen
    ]
    if handles:
        axes.legend(
            handles=handles,
            ncols=min(4, len(handles)),
            frameon=False,
            fontsize=8,
            loc="lower left",
            bbox_to_anchor=(0, 1),
        )
    if left_out > 0:
        axes.set_title(f"and {left_out} hosts more", fontsize=9, loc="right", color=INK)
    if not handles:
        axes.text(
            0.5,
            0.5,
            "all hosts were well",
            ha="center",
            transform=axes.transAxes,
            color=INK,
        )


def traffic(record: Record) -> "Figure | None":
    """Bytes a host sends a second, over time: the one in the middle, the 99th in 100, the most."""
    rated = _rated(record)
    if not rated:
        return None
    figure, (axes,) = new_figure(3.2)
    for place, label, colour in (
        (3, "the host that sends most", LINES[2]),
        (2, "99th percentile", LINES[1]),
        (1, "median host", LINES[0]),
    ):
        if place == 2 and record.hosts < MANY:
            continue
        rates = [sample.sent_bytes[place] / lasted_s for sample, lasted_s in rated]
        axes.plot([s.at for s, _ in rated], rates, color=colour, linewidth=1.4, label=label)
    axes.set_yscale("symlog", linthresh=100)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, record.seconds)
    label_axes(axes, "seconds", "bytes sent a second")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _rated(record: Record) -> list[tuple[Sample, float]]:
    """Samples, and how long each lasted; those that were cut short are left out."""
    samples = record.samples
    rated = [(b, b.at - a.at) for a, b in pairwise(samples)]
    longest = max((lasted_s for _, lasted_s in rated), default=0.0)
    return [(sample, lasted_s) for sample, lasted_s in rated if lasted_s > longest / 2]


def kinds(record: Record) -> "Figure | None":
    """Bytes and packets of the mean host, over time, by kind."""
    rated = _rated(record)
    if not rated:
        return None
    totals: Counter[str] = Counter()
    for sample, _ in rated:
        totals.update({kind: size for kind, (_, size) in sample.by_kind.items()})
    names = sorted(totals, key=lambda kind: (-totals[kind], kind))
    groups = [[name] for name in names[:KINDS_DRAWN_MAX]]
    if names[KINDS_DRAWN_MAX:]:
        groups.append(names[KINDS_DRAWN_MAX:])
    labels = [group[0] if len(group) == 1 else "others" for group in groups]
    figure, all_axes = new_figure(5.2, rows=2)
    for axes, place, label in zip(all_axes, (1, 0), ("bytes", "packets"), strict=True):
        layers = [
            [
                sum(s.by_kind.get(kind, (0, 0))[place] for kind in group) / t / max(1, s.online)
                for s, t in rated
            ]
            for group in groups
        ]
        axes.stackplot(
            [s.at for s, _ in rated],
            *layers,
            labels=labels,
            colors=KIND_COLOURS,
            step="pre",
            linewidth=0,
        )
        axes.set_xlim(0, record.seconds)
        axes.set_ylim(0, _ceiling([sum(column) for column in zip(*layers, strict=True)]))
        label_axes(axes, "seconds", f"{label} a second and host")
    all_axes[0].legend(frameon=False, fontsize=8, ncols=5, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _ceiling(totals: Sequence[float]) -> float:
    """High enough for all but a burst or two, which would flatten all else."""
    ordered = sorted(totals)
    usual = quantile(ordered, 0.97)
    return 1.1 * max(1.0, ordered[-1] if ordered[-1] < 4 * usual else 2 * usual)
