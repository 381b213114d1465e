"""The figures of the pull benchmark, and their limits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple


class PullFigure(NamedTuple):
    """One line of the table. ``key`` names it in the JSON file; no bound means information only."""

    key: str
    text: str
    unit: str
    most: float | None = None
    least: float | None = None


def _swarm(
    hosts: int, most_time: float | None, what: str, key: str, over: str = ""
) -> tuple[PullFigure, ...]:
    of = f"{hosts} {what} pull a cold image together{over}"
    return (
        PullFigure(f"{key}.last", f"{of}: the last ends after", "s"),
        PullFigure(f"{key}.time", f"{of}: the last ÷ the bound", "", most=most_time),
        PullFigure(f"{key}.egress", f"{of}: bytes of the origin's link ÷ F", "", most=1.02),
    )


PULL_FIGURES: Final = (
    *_swarm(8, 1.30, "engines", "engines"),
    PullFigure("direct.time", "8 engines without beiran: the last ÷ the same bound", ""),
    PullFigure("direct.egress", "8 engines without beiran: bytes of the origin's link ÷ F", ""),
    *(figure for n in (4, 8, 16) for figure in _swarm(n, None, "agents", f"agents{n}")),
    *_swarm(32, 1.15, "agents", "agents32"),
    PullFigure("agents.growth", "agents: time to the last, 32 ÷ 4", "", most=1.10),
    *(
        figure
        for n, most_time in ((4, None), (16, None), (32, 1.15))
        for figure in _swarm(n, most_time, "agents", f"slower{n}", " over 20 Mbit/s")
    ),
    PullFigure("slower.growth", "agents over 20 Mbit/s: time to the last, 32 ÷ 4", "", most=1.10),
    PullFigure("agents.cpu", "agents: processor time ÷ GB received, 32", "s"),
    PullFigure(
        "counters.error", "counted bytes ÷ the links', largest error, 8 agents", "%", most=1
    ),
    PullFigure("wide.one", "1 GB from one peer", "MB/s"),
    PullFigure("wide.four", "1 GB from four peers", "MB/s"),
    PullFigure("wide.ratio", "1 GB, one layer: four peers' rate ÷ one's", "", least=3.5),
    PullFigure(
        "memory", "one agent gives 1 GB to 8: the most memory of any of the 9", "MB", most=120
    ),
    PullFigure(
        "held.origin", "layers only in a peer's engine: blob bytes from the origin", "B", most=0
    ),
    PullFigure("held.disk", "what seeding them takes of the disk, of the image", "%", most=1),
    PullFigure("tags.failed", "tag pulls with the origin stopped that failed, of 20", "", most=0),
    PullFigure(
        "tags.slower", "the same: the slowest, slower than with the origin by", "s", most=0.5
    ),
    PullFigure("rebuilt", "one changed layer: bytes on all links ÷ the layer's", "", most=1.05),
    *(
        figure
        for key, what in (
            ("killed", "killed (kill -9)"),
            ("cut", "cut off"),
            ("slowed", "slowed to 10 kB/s"),
        )
        for figure in (
            PullFigure(f"{key}.failed", f"one of 8 {what} in the middle: failed pulls", "", most=0),
            PullFigure(f"{key}.added", f"one of 8 {what} in the middle: added", "s", most=1),
        )
    ),
    PullFigure("liars.wrong", "3 of 8 flip bits: pulls that failed or were wrong", "", most=0),
    PullFigure("liars.named", "3 of 8 flip bits: liars that no log names", "", most=0),
    PullFigure("liars.time", "3 of 8 flip bits: the last ÷ the bound", "", most=1.5),
)
_KEYS: Final = {figure.key: figure for figure in PULL_FIGURES}


class PullReport:
    """The samples so far. Calls ``show`` with each line as it comes."""

    def __init__(self, show: Callable[[str], None] = print) -> None:
        self._show = show
        self._values: dict[str, float] = {}

    def record(self, key: str, value: float) -> None:
        """Note one of ``PULL_FIGURES``."""
        figure = _KEYS[key]
        self._values[key] = value
        self._show(f"  {figure.text}: {value:.4g} {figure.unit}".rstrip())

    def value(self, key: str) -> float | None:
        """The recorded value; None if the figure was not measured."""
        return self._values.get(key)

    def table(self) -> str:
        """All lines that have a value."""
        rows = [("", "target", "", "")]
        for figure in PULL_FIGURES:
            value = self._values.get(figure.key)
            if value is not None:
                unit = f" [{figure.unit}]" if figure.unit else ""
                verdict = (
                    "" if _target(figure) == "" else ("NO" if _misses(figure, value) else "yes")
                )
                rows.append((figure.text + unit, _target(figure), f"{value:.4g}", verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def missed(self) -> list[str]:
        """Texts of the figures beyond their bounds."""
        return [
            figure.text
            for figure in PULL_FIGURES
            if figure.key in self._values and _misses(figure, self._values[figure.key])
        ]

    def write(self, path: Path, about: dict[str, str]) -> None:
        """All values by key, as JSON."""
        path.write_text(json.dumps({"about": about, "values": self._values}, indent=1) + "\n")


def _target(figure: PullFigure) -> str:
    if figure.most is not None:
        return f"≤ {figure.most:g}"
    return "" if figure.least is None else f"≥ {figure.least:g}"


def _misses(figure: PullFigure, value: float) -> bool:
    too_much = figure.most is not None and value > figure.most
    return too_much or (figure.least is not None and value < figure.least)
