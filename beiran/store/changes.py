"""What one transaction changed: events for clients, and keys of rows for followers of listings."""

from msgspec import Struct

from beiran.api.events import Event


class RowsChanged(Struct, frozen=True):
    """Keys of rows that may have changed: UUIDs and digests, as listings show them."""

    nodes: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.nodes or self.images or self.layers)


class Applied(Struct, frozen=True):
    """The outcome of one transaction."""

    events: tuple[Event, ...] = ()
    """In the order of the effects that caused them."""
    rows: RowsChanged = RowsChanged()
