"""What a batch of effects changed: events for people, rows for those who follow a listing."""

from msgspec import Struct

from beiran.api.events import Event


class RowsChanged(Struct, frozen=True):
    """Rows that may read differently now, by UUID or digest as listings show them."""

    nodes: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.nodes or self.images or self.layers)


class Applied(Struct, frozen=True):
    """What came of one transaction."""

    events: tuple[Event, ...] = ()
    """In the order of the effects that caused them."""
    rows: RowsChanged = RowsChanged()
