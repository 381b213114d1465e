"""The daemon-wide events, as ``/events`` tells them."""

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
    """Something that happened, told once.

    ``node`` is always there; ``image`` or ``layer`` where one is meant. ``image.added`` and
    ``layer.added`` mean that ``node`` has it now, ``…removed`` that it no longer has.
    """

    event: EventName
    at: str
    """RFC 3339, UTC, by the clock of the node that tells."""
    node: str
    """UUID of the node it is about."""
    name: str = ""
    """That node's name."""
    image: str = ""
    layer: str = ""
    tags: tuple[str, ...] = ()
    reason: str = ""
