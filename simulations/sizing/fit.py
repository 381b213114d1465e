"""Figures of simulated fleets, and the formulas of ``beiran plan`` that are fitted to them.

``python -m simulations plan-fit`` simulates what ``simulations/sizing/points.csv`` lacks,
and fits anew. Remove the file where the protocol has changed.

A point is a fleet. A figure is fitted to a few terms of it (``beiran_cli.plan_terms``) by least
squares of the relative errors, the largest of which goes along.
"""

import csv
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from beiran.errors import SettingsError
from beiran.gossip.effects import Effect, MemberChanged
from beiran.gossip.membership.member import Status
from beiran_cli.plan_terms import TERMS, Fleet, value
from simulations.fidelity.kernels import KernelWorld
from simulations.gossip.host import Host
from simulations.gossip.images import description, holding
from simulations.gossip.world import World
from simulations.report.gossip.chronicle import Chronicle
from simulations.report.gossip.summary import times_to
from simulations.report.record import quantile
from simulations.running.pool import Mapper
from simulations.sizing.weights import database_bytes, memory_bytes

POINTS: Final = Path(__file__).with_name("points.csv")
FITS: Final = Path(__file__).parents[2] / "cli" / "beiran_cli" / "plan_fits.json"

SETTLE_S: Final = 60.0
"""By then the ARP requests of the start are over, and those of a steady state have begun."""
IDLE_S: Final = 60.0
EVENTS: Final = 6
EVENT_S: Final = 8.0
"""By then the last repetitions of an update are over."""
KILLS: Final = 3
SILENCES: Final = 5
BETWEEN_S: Final = 12.0
JOIN_S: Final = 10.0
DETECTION_S_MAX: Final = 120.0


class Figure(NamedTuple):
    """The terms of a figure's formula, and its unit."""

    unit: str
    terms: tuple[str, ...]


FIGURES: Final[Mapping[str, Figure]] = {
    "idle_bytes_per_s": Figure("B/s", ("one", "small")),
    "event_bytes": Figure("B", ("one", "log_nodes", "layers", "many_layers")),
    "event_s": Figure("s", ("one", "log_nodes")),
    "kill_s": Figure("s", ("one", "log_nodes")),
    "silence_median_s": Figure("s", ("one", "log_nodes")),
    "silence_worst_s": Figure("s", ("one", "log_nodes")),
    "join_bytes": Figure("B", ("one", "nodes", "holdings", "described_layers")),
    "memory_bytes": Figure("B", ("one", "nodes", "holdings", "described_layers")),
    "database_bytes": Figure("B", ("one", "nodes", "holdings", "described_layers")),
}


class Point(NamedTuple):
    """A fleet to simulate."""

    fleet: Fleet
    seed: int = 1


GRID: Final = (
    *(Point(Fleet(nodes, 5, 20, 5), seed) for nodes in (10, 30, 100, 300) for seed in (1, 2, 3)),
    *(Point(Fleet(100, 5, 20, layers)) for layers in (1, 15, 20, 25, 30)),
    *(Point(Fleet(nodes, images, 10 * images, 11)) for nodes in (10, 100) for images in (10, 40)),
    Point(Fleet(300, 20, 200, 11)),
    Point(Fleet(1000, 17, 170, 11)),
)


def measure(point: Point) -> dict[str, float]:
    """Return all figures of one fleet that came together long ago."""
    fleet = point.fleet
    owners = [images_of(fleet, number) for number in range(fleet.nodes)]
    world = KernelWorld(point.seed)
    world.settled(fleet.nodes, owners.__getitem__, layers=fleet.layers)
    world.run(SETTLE_S)
    before = _sent(world)
    world.run(IDLE_S)
    idle = (_sent(world) - before) / IDLE_S / fleet.nodes
    kills = [everywhere_s(world, world.kill, number) for number in range(1, 1 + KILLS)]
    first = 1 + KILLS
    offs = [everywhere_s(world, world.power_off, first + n) for n in range(SILENCES)]
    return {
        "idle_bytes_per_s": idle,
        **_events(world, fleet, idle),
        "kill_s": statistics.median(kills),
        "silence_median_s": statistics.median(offs),
        "silence_worst_s": max(offs),
        "join_bytes": _join_bytes(world, idle),
        "memory_bytes": memory_bytes(owners, fleet.layers),
        "database_bytes": database_bytes(owners, fleet.layers),
    }


def images_of(fleet: Fleet, number: int) -> list[str]:
    """Return the images that a node holds."""
    return [
        f"image-{(number * fleet.images + place) % fleet.different}"
        for place in range(fleet.images)
    ]


def _sent(world: World) -> int:
    return sum(host.traffic.bytes for host in world.hosts)


def _events(world: World, fleet: Fleet, idle: float) -> dict[str, float]:
    """A node gets an image that is new to all: bytes per node, and time until all know."""
    chronicle = Chronicle(world, sample_s=EVENTS * EVENT_S)
    before = _sent(world)
    for event in range(EVENTS):
        host = world.hosts[13 * event % fleet.nodes]
        name = f"new-{event}"
        world.hold_these(host, [holding(name)], [description(name, fleet.layers)])
        world.run(EVENT_S)
    sent = (_sent(world) - before) / fleet.nodes - idle * EVENTS * EVENT_S
    times = times_to(chronicle.record("events").news, 1.0)
    return {"event_bytes": max(1.0, sent / EVENTS), "event_s": quantile(times, 0.5)}


def everywhere_s(world: World, fail: Callable[[Host], None], number: int) -> float:
    """Return how long all others take to hold a host for down that fails now; restart it."""
    victim = world.hosts[number]
    knows: dict[int, None] = {}

    def found(host: Host, effect: Effect) -> None:
        if isinstance(effect, MemberChanged) and effect.member.node == victim.id:
            if effect.member.status is Status.DOWN:
                knows[host.number] = None
            else:
                knows.pop(host.number, None)

    world.found.append(found)
    began = world.now
    fail(victim)
    others = len(world.online())
    world.run_until(lambda: len(knows) >= others, within_s=DETECTION_S_MAX)
    took_s = world.now - began
    world.found.remove(found)
    world.restart(victim)
    world.run(BETWEEN_S)
    return took_s


def _join_bytes(world: World, idle: float) -> float:
    """Return the bytes that all send beyond idle traffic when a node joins with no state."""
    before, hosts = _sent(world), len(world.hosts)
    world.add(join=world.hosts[:2])
    world.run(JOIN_S)
    return max(1.0, _sent(world) - before - idle * hosts * JOIN_S)


# --- points and fits ------------------------------------------------------------------------------


class Row(NamedTuple):
    """A point and its figures."""

    point: Point
    figures: dict[str, float]


def measure_missing(path: Path, mapper: Mapper, done: Callable[[int], None]) -> list[Row]:
    """Simulate the points that the file lacks, and add each row as it is ready. Returns all."""
    rows = read_points(path)
    there = {(row.point.fleet, row.point.seed) for row in rows}
    left = [point for point in GRID if (point.fleet, point.seed) not in there]
    for row in mapper(measure_row, left):
        rows.append(row)
        write_points(path, rows)
        done(len(rows))
    return rows


def measure_row(point: Point) -> Row:
    """``measure``, for other processes."""
    return Row(point, measure(point))


def read_points(path: Path) -> list[Row]:
    """Return the rows of a file, none if it does not exist. Raises: SettingsError."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        try:
            return [
                Row(
                    Point(Fleet(*(int(row[name]) for name in Fleet._fields)), int(row["seed"])),
                    {name: float(row[name]) for name in FIGURES},
                )
                for row in csv.DictReader(file)
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise SettingsError(f"{path} is no table of points: {error!r}") from None


def write_points(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows in a fixed order."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Fleet._fields, "seed", *FIGURES])
        for row in sorted(rows):
            numbers = [f"{row.figures[name]:.6g}" for name in FIGURES]
            writer.writerow([*row.point.fleet, row.point.seed, *numbers])


def fit(rows: Sequence[Row]) -> dict[str, object]:
    """Return coefficients, the largest error and the simulated ranges, for ``plan_fits.json``."""
    import numpy as np

    figures: dict[str, object] = {}
    for name, figure in FIGURES.items():
        values = np.array([max(row.figures[name], 1e-9) for row in rows])
        terms = np.array([[TERMS[t](row.point.fleet) for t in figure.terms] for row in rows])
        solved = np.linalg.lstsq(terms / values[:, None], np.ones(len(rows)), rcond=None)[0]
        coefficients = {t: float(f"{c:.6g}") for t, c in zip(figure.terms, solved, strict=True)}
        errors = [
            abs(value(row.point.fleet, coefficients) / max(row.figures[name], 1e-9) - 1)
            for row in rows
        ]
        figures[name] = {
            "unit": figure.unit,
            "coefficients": coefficients,
            "largest_error": float(f"{max(errors):.3f}"),
        }
    ranges = {
        name: [min(numbers), max(numbers)]
        for name, numbers in zip(
            Fleet._fields, zip(*(row.point.fleet for row in rows), strict=True), strict=True
        )
    }
    return {"simulated": ranges, "points": len(rows), "figures": figures}


def write_fits(path: Path, fits: Mapping[str, object]) -> None:
    """Write fits as JSON."""
    path.write_text(json.dumps(fits, indent=2) + "\n")
