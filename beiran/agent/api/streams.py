"""Send a listing: whole over HTTP; by WebSocket row by row, and then every change of a row.

This is the last step of an update's way through the agent: gossip effect, store transaction, event
bus, and here the message to a follower. ``event_bus`` cuts off a follower that reads too slowly.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, Generic

import msgspec
from msgspec import Struct

from beiran.agent.api.listings import Listing, R
from beiran.agent.event_bus import EventBus
from beiran.api.models import Change
from beiran.http.messages import Response, SendMessage
from beiran.store.async_reads import Reads
from beiran.store.reads import Queries

ROWS_AT_ONCE: Final = 100
"""Rows read and sent in one step: 100 layers that 1,000 nodes hold are 5 MB of JSON."""


async def listing_response(listing: Listing[R], reads: Reads) -> Response:
    """All rows as ``{"nodes": […]}``, in one piece up to ``ROWS_AT_ONCE`` rows."""

    def start(queries: Queries) -> tuple[Sequence[str], list[bytes]]:
        keys = listing.keys(queries)
        return keys[ROWS_AT_ONCE:], _encoded(listing, keys[:ROWS_AT_ONCE])(queries)

    later, rows = await reads(start)
    head = b'{"%s":[' % listing.name.encode() + b",".join(rows)
    headers = [("Content-Type", "application/json")]
    if not later:
        return Response(headers=headers, body=head + b"]}")

    async def body() -> AsyncIterator[bytes]:
        yield head
        comma = b"," if rows else b""
        for chunk in _chunks(later):
            more = await reads(_encoded(listing, chunk))
            if more:
                yield comma + b",".join(more)
                comma = b","
        yield b"]}"

    return Response(headers=headers, body=body())


async def send_rows(listing: Listing[R], reads: Reads, send: SendMessage) -> None:
    """Send each row as a message."""
    for chunk in _chunks(await reads(listing.keys)):
        for row in await reads(_encoded(listing, chunk)):
            await send(row)


async def follow_rows(listing: Listing[R], reads: Reads, bus: EventBus, send: SendMessage) -> None:
    """Send all rows, then ``listed``, then every change, until the client disconnects.

    The listener is there before the first row is read, and after each transaction of the store the
    touched rows are compared with those that were sent. So no change is missed, and none is sent
    twice.

    Raises: TooSlow; NotFound when the node of the listing has been forgotten.
    """
    shown: dict[str, _Shown[R]] = {}
    async with bus.follow_rows() as listener:
        for chunk in _chunks(await reads(listing.keys)):
            for row in await reads(_rows(listing, chunk)):
                shown[listing.key(row)] = _Shown.of(listing, row)
                await send(msgspec.json.encode(row))
        await send(msgspec.json.encode(Change(change="listed")))
        while True:
            changed = await listener.changed()
            for chunk in _chunks(sorted(listing.touched(changed))):
                rows = await reads(_rows(listing, chunk))
                for change in _differences(listing, shown, chunk, rows):
                    await send(msgspec.json.encode(change))


class _Shown(Struct, Generic[R], frozen=True):
    """A row that was sent to a follower: its hash, and the row for the message of its removal."""

    hash: int
    gone: R

    @classmethod
    def of(cls, listing: Listing[R], row: R) -> "_Shown[R]":
        return cls(hash(msgspec.json.encode(listing.essence(row))), listing.gone(row))


def _differences(
    listing: Listing[R], shown: dict[str, _Shown[R]], keys: Sequence[str], rows: Sequence[R]
) -> Iterator[Change]:
    """The messages about ``keys``, whose rows are ``rows`` now. Updates ``shown``."""
    now = {listing.key(row): row for row in rows}
    for key in keys:
        before, row = shown.get(key), now.get(key)
        if row is None:
            if before is not None:
                del shown[key]
                yield listing.change("removed", before.gone)
            continue
        after = shown[key] = _Shown.of(listing, row)
        if before is None:
            yield listing.change("added", row)
        elif before.hash != after.hash:
            yield listing.change("changed", row)


def _rows(listing: Listing[R], keys: Sequence[str]) -> Callable[[Queries], Sequence[R]]:
    return lambda queries: listing.read(queries, keys)


def _encoded(listing: Listing[R], keys: Sequence[str]) -> Callable[[Queries], list[bytes]]:
    return lambda queries: [msgspec.json.encode(row) for row in listing.read(queries, keys)]


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), ROWS_AT_ONCE):
        yield keys[start : start + ROWS_AT_ONCE]
