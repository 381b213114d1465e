"""``beiran plan``: the cost of a fleet, from formulas fitted to simulated fleets."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from beiran_cli.exits import WrongUsage
from beiran_cli.options import Common, Output
from beiran_cli.plan_terms import Fleet, value
from beiran_cli.table import print_fields, print_json
from beiran_cli.units import human_size

FITS: Final = Path(__file__).with_name("plan_fits.json")
PROCESS_BYTES: Final = 60_000_000  # an idle agent with Docker: docs/explanation/benchmarks.md
DIFFERENT_OF_IMAGES: Final = 10
NUMBERS_MAX: Final = 10_000_000
HOUR_S: Final = 3600.0

app = App(name="plan")


@app.default
def plan(
    *,
    nodes: Annotated[int, Parameter(help="Hosts.")],
    images: Annotated[int, Parameter(help="Images that each host holds.")],
    events_per_hour: Annotated[
        float, Parameter(help="Images added or removed an hour, in the whole fleet.")
    ] = 0.0,
    layers: Annotated[int, Parameter(help="Layers of an image.")] = 10,
    different_images: Annotated[
        int | None, Parameter(help="Different images in the whole fleet (10 times --images).")
    ] = None,
    output: Annotated[
        Output | None,
        Parameter(help="table for people, json for programs (BEIRAN_OUTPUT, or table)."),
    ] = None,
) -> None:
    """Estimate what a fleet of hosts will cost.

    Asks no agent. The figures cover membership and listings, not the bytes of images.
    """
    different = DIFFERENT_OF_IMAGES * images if different_images is None else different_images
    different = min(different, nodes * images)
    fleet = Fleet(nodes, images, different, layers)
    _check(fleet, events_per_hour)
    fits = json.loads(FITS.read_text())
    answer = forecast(fits, fleet, events_per_hour)
    if Common(output=output).as_json:
        print_json(answer)
        return
    print_fields(_fields(answer))


def forecast(fits: dict[str, Any], fleet: Fleet, events_per_hour: float) -> dict[str, Any]:
    """All figures as one object, per node, in seconds and bytes."""
    figures = {
        name: value(fleet, figure["coefficients"]) for name, figure in fits["figures"].items()
    }
    events = figures["event_bytes"] * events_per_hour / HOUR_S
    return {
        "fleet": {**fleet._asdict(), "events_per_hour": events_per_hour},
        "idle_bytes_per_s": figures["idle_bytes_per_s"],
        "event_bytes": figures["event_bytes"],
        "events_bytes_per_s": events,
        "bytes_per_s": figures["idle_bytes_per_s"] + events,
        "memory_bytes": PROCESS_BYTES + figures["memory_bytes"],
        "database_bytes": figures["database_bytes"],
        "event_s": figures["event_s"],
        "kill_s": figures["kill_s"],
        "silence_median_s": figures["silence_median_s"],
        "silence_worst_s": figures["silence_worst_s"],
        "join_bytes": figures["join_bytes"],
        "largest_errors": {
            name: figure["largest_error"] for name, figure in fits["figures"].items()
        },
        "simulated": fits["simulated"],
        "beyond": _beyond(fits, fleet),
    }


def _check(fleet: Fleet, events_per_hour: float) -> None:
    for name, least in (("nodes", 1), ("images", 0), ("different", 0), ("layers", 0)):
        option = "different-images" if name == "different" else name
        if not least <= getattr(fleet, name) <= NUMBERS_MAX:
            raise WrongUsage(f"--{option} must be {least} to {NUMBERS_MAX}")
    if not 0.0 <= events_per_hour <= NUMBERS_MAX:
        raise WrongUsage(f"--events-per-hour must be 0 to {NUMBERS_MAX}")


def _beyond(fits: dict[str, Any], fleet: Fleet) -> list[str]:
    """The parameters of the fleet outside the simulated range, a line each."""
    lines = []
    for name, (least, most) in fits["simulated"].items():
        if not least <= getattr(fleet, name) <= most:
            word = "different images" if name == "different" else name
            lines.append(f"{getattr(fleet, name)} {word}; the simulations had {least} to {most}")
    return lines


def _fields(answer: dict[str, Any]) -> list[tuple[str, str | list[str]]]:
    fleet, simulated = answer["fleet"], answer["simulated"]
    errors = answer["largest_errors"]

    def within(*names: str) -> str:
        return f"(fit within {max(errors[name] for name in names):.0%})"

    fields: list[tuple[str, str | list[str]]] = [
        (
            "Fleet",
            f"{fleet['nodes']} nodes with {fleet['images']} images of {fleet['layers']} layers "
            f"each, {fleet['different']} different, {fleet['events_per_hour']:g} events an hour",
        ),
        (
            "Sent by a node",
            [
                f"{answer['bytes_per_s']:.0f} bytes a second",
                f"{answer['idle_bytes_per_s']:.0f} when idle {within('idle_bytes_per_s')}",
                f"{answer['events_bytes_per_s']:.1f} for events, {answer['event_bytes']:.0f} bytes "
                f"for each {within('event_bytes')}",
            ],
        ),
        ("Memory of an agent", f"{human_size(round(answer['memory_bytes']))}"),
        (
            "Database of an agent",
            f"{human_size(round(answer['database_bytes']))} {within('database_bytes')}",
        ),
        ("Event known to all in", f"{_time(answer['event_s'])} {within('event_s')}"),
        (
            "Offline everywhere in",
            [
                f"{_time(answer['kill_s'])} after an agent is killed {within('kill_s')}",
                f"{_time(answer['silence_median_s'])} after a host falls silent, "
                f"{_time(answer['silence_worst_s'])} at worst "
                f"{within('silence_median_s', 'silence_worst_s')}",
            ],
        ),
        (
            "A node that joins",
            f"costs {human_size(round(answer['join_bytes']))} on the network "
            f"{within('join_bytes')}",
        ),
        (
            "Simulated",
            f"{simulated['nodes'][0]} to {simulated['nodes'][1]} nodes, "
            f"{simulated['images'][0]} to {simulated['images'][1]} images of "
            f"{simulated['layers'][0]} to {simulated['layers'][1]} layers, 1 ms links, no loss",
        ),
    ]
    if answer["beyond"]:
        fields.append(("Beyond that", answer["beyond"]))
    return fields


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"
