"""An older release on the wire: messages with fewer fields at their end, and less news.

Compatibility is promised so (docs/protocol.md): new fields go last and have defaults, news of an
unknown kind is skipped. ``OldCodec`` is a release from before every field that has a default, and
from before ``Ahead``. What it passes on of others' news it passes on as it came.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import msgpack
import msgspec
from msgspec import Struct

from beiran.gossip.codec import Codec
from beiran.gossip.messages import (
    Ahead,
    Datagram,
    Described,
    Down,
    Entry,
    News,
    NewsItem,
    Stream,
    Suspect,
    SyncExchange,
    SyncMember,
    SyncVector,
)

_SINCE: Final[dict[type[Struct], str]] = {
    Suspect: "refused",
    Down: "refused",
    Entry: "age_s",
    SyncMember: "age_s",
    Described: "too_large",
}
"""The fields that the older release does not have; each is the last of its message."""
T = TypeVar("T", bound=Struct)


class OldCodec(Codec):
    """Speaks as the older release did."""

    def encode_news(self, news: News) -> NewsItem:
        """Without the fields that came later."""
        return _cut(news)

    def encode_datagram(self, message: Datagram) -> bytes:
        """Without the fields that came later."""
        return self._head + bytes(msgpack.packb(_cut(message)))

    def encode_stream(self, message: Stream) -> bytes:
        """Without the fields that came later; it did not deflate either."""
        return self._head + bytes(msgpack.packb(_cut(message)))

    def decode_datagram_untrusted(self, data: bytes) -> Datagram:
        """Skip the fields that came later."""
        return _forget(super().decode_datagram_untrusted(data))

    def decode_stream_untrusted(self, data: bytes) -> Stream:
        """Skip the fields that came later."""
        message = super().decode_stream_untrusted(data)
        if isinstance(message, SyncVector):
            entries = tuple(_forget(entry) for entry in message.entries)
            return SyncVector(message.sender, message.buckets, entries)
        if isinstance(message, SyncExchange):
            members = tuple(_forget(member) for member in message.members)
            return msgspec.structs.replace(message, members=members)
        return _forget(message)

    def decode_news_untrusted(self, items: Sequence[NewsItem]) -> list[tuple[News, NewsItem]]:
        """Skip the fields and the news that came later."""
        known = [(_forget(news), item) for news, item in super().decode_news_untrusted(items)]
        return [(news, item) for news, item in known if not isinstance(news, Ahead)]


def _forget(message: T) -> T:
    """The message as one that never had the later field sees it."""
    field = _SINCE.get(type(message))
    if field is None:
        return message
    default = dict(_defaults(type(message)))[field]
    return msgspec.structs.replace(message, **{field: default})


def _defaults(kind: type[Struct]) -> list[tuple[str, object]]:
    return [(field.name, field.default) for field in msgspec.structs.fields(kind)]


def _cut(message: Struct) -> tuple[object, ...]:
    """The message as an array, tag first, without the later fields, nested ones too."""
    later = _SINCE.get(type(message))
    values: list[object] = []
    tag = type(message).__struct_config__.tag
    if tag is not None:
        values.append(tag)
    for name in message.__struct_fields__:
        if name != later:
            values.append(_cut_value(getattr(message, name)))
    return tuple(values)


def _cut_value(value: object) -> object:
    if isinstance(value, Struct):
        return _cut(value)
    if isinstance(value, tuple):
        return tuple(_cut_value(item) for item in value)
    return value
