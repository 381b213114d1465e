"""The events that ``/events`` lists and streams."""

from typing import Final, Literal, get_args

from msgspec import Struct

EventName = Literal[
    "node.added",
    "node.online",
    "node.suspect",
    "node.offline",
    "node.left",
    "image.added",
    "image.removed",
    "layer.added",
    "layer.removed",
    "engine.up",
    "engine.down",
]
EVENT_NAMES: Final[tuple[str, ...]] = get_args(EventName)


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change in the cluster, as the answering node learned of it.

    ``node`` is always set; ``image`` or ``layer`` where the event is about one. ``image.added`` and
    ``layer.added`` say that ``node`` holds it now, ``…removed`` that it does no longer.
    """

    event: EventName
    at: str
    """RFC 3339, UTC, by the clock of the answering node."""
    node: str
    """UUID of the node that the event is about."""
    name: str = ""
    """That node's name."""
    image: str = ""
    layer: str = ""
    tags: tuple[str, ...] = ()
    reason: str = ""
