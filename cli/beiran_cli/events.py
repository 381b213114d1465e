"""``beiran events``: recent events, and events as they occur."""

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
    """Print the agent's recent events, or with --follow each event as it occurs.

    Parameters
    ----------
    follow
        Print each event as it occurs, until Ctrl-C; as JSON, an object a line.
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
    """An event in a line: local time, name, node, image or layer, tags, reason."""
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
