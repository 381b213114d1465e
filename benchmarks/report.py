"""The figures of the gossip benchmark, their limits, and the table beside other programs."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MISSED: Final = float("inf")
"""Stands for a time when what was waited for did not come."""


class Figure(NamedTuple):
    """One line of the table. ``key`` names it in the JSON file."""

    key: str
    text: str
    unit: str
    most: float | None = None
    """The upper limit of beiran's figure; None for a figure without one, or relative to serf's."""


SILENCE_OF_SERF: Final = 0.6

FIGURES: Final = (
    Figure("start3", "3 hosts, all see all after the last was launched: worst", "s", 2.0),
    Figure("start30.median", "30 together, all see all after the last is ready: median", "s", 1.5),
    Figure("start30.worst", "30 together, the same: worst", "s", 5.0),
    Figure("docker.median", "image event of a real engine in all listings of 3: median", "s", 0.15),
    Figure("docker.worst", "image event, the same: worst", "s", 1.0),
    Figure("news.median", "news of one of 20 at all: median", "s", 0.1),
    Figure("news.worst", "news of one of 20 at all: worst", "s", 1.0),
    Figure("news.missed", "news of one of 20 that a host never received", "", 0),
    Figure("kill3.median", "kill -9 of one of 3, offline everywhere: median", "s", 0.5),
    Figure("kill3.worst", "kill -9 of one of 3: worst", "s", 1.5),
    Figure("kill20.median", "kill -9 of one of 20, offline everywhere: median", "s", 0.5),
    Figure("kill20.worst", "kill -9 of one of 20: worst", "s", 1.5),
    *(
        figure
        for n in (20, 50)
        for figure in (
            Figure(
                f"silence{n}.median", f"one of {n} falls silent, offline everywhere: median", "s"
            ),
            Figure(f"silence{n}.worst", f"one of {n} falls silent: worst", "s"),
        )
    ),
    Figure("leave20.median", "graceful leave of one of 20, known to all: median", "s", 0.1),
    Figure("leave20.worst", "graceful leave of one of 20: worst", "s", 1.5),
    Figure("leave20.failed", "graceful leaves that a host showed as failed", "", 0),
    Figure("idle20.offline", "false offline, 20 idle", "", 0),
    Figure("loss10.offline", "false offline, 10 % of packets lost at all 20", "", 0),
    Figure("loss25.offline", "false offline, 25 % of packets lost at all 20", "", 0),
    Figure("pause.healthy", "8 of 20 stopped 8 s every 8 s: healthy shown offline", "", 0),
    Figure("pause.by_healthy", "the same, as healthy ones saw it", "", 0),
    Figure("heal20.worst", "half of 20 cut off and healed: seconds to one state", "s", 3.0),
    Figure("bytes5", "idle traffic sent per node at 5", "B/s", None),
    Figure("bytes20", "idle traffic sent per node at 20", "B/s", 220),
    Figure("packets20", "idle packets sent per node at 20", "1/s", 3.2),
    Figure("bytes30", "idle traffic sent per node at 30", "B/s", None),
    Figure("growth", "idle traffic at 30 in % of that at 5", "%", 110),
    Figure("restart.one", "agent restarted: state correct after its launch, worst", "s", 5.0),
    Figure("restart.wiped", "the same with the database deleted: worst", "s", 5.0),
    Figure("restart.all", "all 20 restarted: state correct after the last is ready", "s", 5.0),
    Figure("restart.engine", "engine restarted: state correct after it answers, worst", "s", 5.0),
    Figure("rss", "resident memory, idle (beiran: with Docker)", "MB", 60),
    Figure("cpu", "processor time, idle (beiran: with Docker)", "% of a core", 0.5),
    Figure("node_list", "`beiran node list`: median", "ms", 150),
)
_KEYS: Final = {figure.key: figure for figure in FIGURES}


class Report:
    """The samples so far. Calls ``show`` with each line as it comes."""

    def __init__(self, show: Callable[[str], None] = print) -> None:
        self._show = show
        self._values: dict[str, dict[str, float]] = {}
        self._samples: dict[str, dict[str, list[float]]] = {}

    def record(self, key: str, program: str, value: float, samples: Sequence[float] = ()) -> None:
        """Note what ``program`` showed.

        Args:
          key: of one of ``FIGURES``.
          samples: what the value is drawn from, for the JSON file.
        """
        figure = _KEYS[key]
        self._values.setdefault(key, {})[program] = value
        if samples:
            self._samples.setdefault(key, {})[program] = list(samples)
        count = f" of {len(samples)}" if len(samples) > 1 else ""
        self._show(f"  {program}: {figure.text}{count}: {_number(value)} {figure.unit}")

    def record_times(self, stem: str, program: str, samples: Sequence[float]) -> None:
        """Record median and worst as ``STEM.median`` and ``STEM.worst``."""
        self.record(f"{stem}.median", program, statistics.median(samples), samples)
        self.record(f"{stem}.worst", program, max(samples), samples)

    def value(self, key: str, program: str) -> float:
        """The recorded value. Raises: KeyError."""
        return self._values[key][program]

    def table(self) -> str:
        """All lines that have a value, beside the others' and the ratios to theirs."""
        head = ("", "target", "beiran", "serf", "kinship", "÷ serf", "÷ kinship", "")
        rows: list[tuple[str, ...]] = [head]
        for figure in FIGURES:
            values = self._values.get(figure.key)
            if values is None:
                continue
            most = self._most(figure)
            ours = values.get("beiran")
            rows.append(
                (
                    figure.text + (f" [{figure.unit}]" if figure.unit else ""),
                    "" if most is None else f"≤ {_number(most)}",
                    *(_optional(values.get(name)) for name in ("beiran", "serf", "kinship")),
                    _ratio(ours, values.get("serf")),
                    _ratio(ours, values.get("kinship")),
                    "" if ours is None or most is None else ("yes" if ours <= most else "NO"),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def _most(self, figure: Figure) -> float | None:
        if figure.key.startswith("silence"):  # of serf's in the same run
            serf = self._values[figure.key].get("serf")
            return None if serf is None else SILENCE_OF_SERF * serf
        return figure.most

    def missed(self) -> list[str]:
        """Texts of the figures where beiran is above its target."""
        missed = []
        for figure in FIGURES:
            ours = self._values.get(figure.key, {}).get("beiran")
            most = None if ours is None else self._most(figure)
            if ours is not None and most is not None and ours > most:
                missed.append(figure.text)
        return missed

    def write(self, path: Path, about: dict[str, str]) -> None:
        """Everything as JSON: values and samples by key and program; a miss is null."""
        content = {
            "about": about,
            "figures": {
                key: {
                    "text": _KEYS[key].text,
                    "unit": _KEYS[key].unit,
                    "most": self._most(_KEYS[key]),
                    "values": {name: _json(value) for name, value in values.items()},
                    "samples": {
                        name: [_json(sample) for sample in samples]
                        for name, samples in self._samples.get(key, {}).items()
                    },
                }
                for key, values in self._values.items()
            },
        }
        path.write_text(json.dumps(content, indent=1) + "\n")


def _json(value: float) -> float | None:
    return None if value == MISSED else round(value, 6)


def _number(value: float) -> str:
    if value == MISSED:
        return "never"
    if value == int(value):
        return str(int(value))
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _optional(value: float | None) -> str:
    return "" if value is None else _number(value)


def _ratio(ours: float | None, theirs: float | None) -> str:
    if ours is None or not theirs or MISSED in (ours, theirs):
        return ""
    return f"{ours / theirs:.2f}"
