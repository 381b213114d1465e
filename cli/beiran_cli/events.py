"""``beiran events``: what happened, and what happens."""

from datetime import datetime
from typing import Annotated

from cyclopts import App, Parameter

from beiran.api.events import Event
from beiran_cli.following import print_each
from beiran_cli.names import short_digest, short_uuid
from beiran_cli.options import DEFAULTS, Common
from beiran_cli.table import print_json, print_line
from beiran_cli.units import clock_time

app = App(name="events")


@app.default
def events(
    *,
    follow: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    common: Common = DEFAULTS,
) -> None:
    """Tell what the agent has seen happen lately, or with --follow what happens from now on.

    Parameters
    ----------
    follow
        Tell each event as it happens, until Ctrl-C; as JSON, one object on a line.
    """
    if follow:
        print_each(common, lambda client: client.follow_events(), event_line)
        return
    with common.connect() as client:
        latest = client.get_events()
    if common.as_json:
        print_json(latest)
        return
    for event in latest:
        print_line(event_line(event))


def event_line(event: Event) -> str:
    """An event in a line: when (local time), what, where, and to what."""
    about = event.image or event.layer
    parts = [
        _local_time(event.at),
        f"{event.event:<13}",
        event.name or short_uuid(event.node),
        short_digest(about) if about else "",
        ", ".join(event.tags),
        f"({event.reason})" if event.reason and not event.event.endswith(event.reason) else "",
    ]
    return "  ".join(part for part in parts if part)


def _local_time(timestamp: str) -> str:
    try:
        return clock_time(datetime.fromisoformat(timestamp))
    except ValueError:
        return timestamp
