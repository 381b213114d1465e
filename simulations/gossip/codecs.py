"""Codecs of simulated agents, beside the real one that they all build on.

- ``MemoCodec`` remembers what it has decoded: all hosts of a world share it.
- ``CarriedCodec`` encodes nothing and hands messages over as objects.
- ``OldCodec`` is an older release: fewer fields, fewer kinds of updates.
"""

from collections.abc import Sequence
from typing import Any, Final, Self, TypeVar, cast

import msgpack
import msgspec
from msgspec import Struct
from typing_extensions import override

from beiran.errors import BadPacket
from beiran.gossip.codec import NEWS_MAX, Codec
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
from beiran.sansio.wire import packed_bytes

REMEMBERED_MAX: Final = 4096  # decoded updates; far more than are under way at once

# Of a carried message: about what the real codec makes of an average one.
FIXED_BYTES: Final = 32  # of a ping, ack or gossip message without its updates
DESCRIPTION_BYTES: Final = 300
ENTRY_BYTES: Final = 36


class MemoCodec(Codec):
    """The real codec, which decodes an update once however many hosts receive it.

    An update travels to a thousand hosts as the same fields, and all of them get one immutable
    object. Nothing else differs: malformed bytes are refused each time.
    """

    def __init__(self, cluster: str) -> None:
        super().__init__(cluster)
        self._decoded: dict[NewsItem, News] = {}

    @override
    def decode_news_untrusted(self, items: Sequence[NewsItem]) -> list[tuple[News, NewsItem]]:
        if not items:
            return []
        decoded = self._decoded
        known: list[tuple[News, NewsItem]] = []
        if len(items) <= NEWS_MAX:
            for item in items:
                update = decoded.get(item)
                if update is None:
                    break
                known.append((update, item))
            else:
                return known
        known = super().decode_news_untrusted(items)
        if len(decoded) >= REMEMBERED_MAX:
            decoded.clear()
        for update, item in known:
            decoded[item] = update
        return known


class _Carried(bytes):
    """Bytes of about a message's length, with the message inside."""

    message: Struct

    @classmethod
    def of(cls, message: Struct) -> Self:
        """Wrap a message; its tag stands where the real codec puts it."""
        tag = type(message).__struct_config__.tag
        assert isinstance(tag, int)
        head = b"\xbe\x1a\x01\x00\x00\x00\x00\x90" + bytes([tag])
        packet = cls(head + bytes(_carried_length(message)))
        packet.message = message
        return packet


class CarriedCodec(MemoCodec):
    """No codec: lengths are estimates, and no message is ever malformed.

    It saves little. Updates keep their real fields, because the core counts their bytes.
    """

    @override
    def encode_datagram(self, message: Datagram) -> bytes:
        return _Carried.of(message)

    @override
    def encode_stream(self, message: Stream) -> bytes:
        return _Carried.of(message)

    @override
    def decode_datagram_untrusted(self, data: bytes) -> Datagram:
        return cast(Datagram, _unwrap(data))

    @override
    def decode_stream_untrusted(self, data: bytes) -> Stream:
        return cast(Stream, _unwrap(data))


def _unwrap(data: bytes) -> Struct:
    if not isinstance(data, _Carried):
        raise BadPacket("not a message that was handed over")
    return data.message


def _carried_length(message: Struct) -> int:
    size = FIXED_BYTES
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, bytes):
            size += len(value)
        elif isinstance(value, tuple):
            for item in value:
                if name == "news":
                    size += packed_bytes(item)
                else:
                    size += DESCRIPTION_BYTES if name == "descriptions" else ENTRY_BYTES
    return size


_LATER_FIELDS: Final[dict[type[Struct], str]] = {
    Suspect: "refused",
    Down: "refused",
    Entry: "age_s",
    SyncMember: "age_s",
    Described: "too_large",
}
"""The fields that the older release does not have; each is the last of its message."""
T = TypeVar("T", bound=Struct)


class OldCodec(Codec):
    """Speaks as a release from before every field that has a default, and from before ``Ahead``.

    The protocol promises this much (protocol.md): new fields come last and have defaults, and
    a receiver skips updates of an unknown kind. Updates of others are passed on as they came.
    """

    @override
    def encode_news(self, news: News) -> NewsItem:
        item: NewsItem = _without_later(news)
        return item

    @override
    def encode_datagram(self, message: Datagram) -> bytes:
        return self._head + bytes(msgpack.packb(_without_later(message)))

    @override
    def encode_stream(self, message: Stream) -> bytes:
        # it did not deflate either
        return self._head + bytes(msgpack.packb(_without_later(message)))

    @override
    def decode_datagram_untrusted(self, data: bytes) -> Datagram:
        return _with_defaults(super().decode_datagram_untrusted(data))

    @override
    def decode_stream_untrusted(self, data: bytes) -> Stream:
        message = super().decode_stream_untrusted(data)
        if isinstance(message, SyncVector):
            entries = tuple(_with_defaults(entry) for entry in message.entries)
            return SyncVector(message.sender, message.buckets, entries)
        if isinstance(message, SyncExchange):
            members = tuple(_with_defaults(member) for member in message.members)
            return msgspec.structs.replace(message, members=members)
        return _with_defaults(message)

    @override
    def decode_news_untrusted(self, items: Sequence[NewsItem]) -> list[tuple[News, NewsItem]]:
        read = super().decode_news_untrusted(items)
        known = [(_with_defaults(news), item) for news, item in read]
        return [(news, item) for news, item in known if not isinstance(news, Ahead)]


def _with_defaults(message: T) -> T:
    """Return the message as a release without the later field sees it."""
    later = _LATER_FIELDS.get(type(message))
    if later is None:
        return message
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(message))}
    return msgspec.structs.replace(message, **{later: defaults[later]})


def _without_later(value: Any) -> Any:
    """Return a message as an array, its tag first, without later fields, nested ones too."""
    if isinstance(value, tuple):
        return tuple(_without_later(item) for item in value)
    if not isinstance(value, Struct):
        return value
    later, tag = _LATER_FIELDS.get(type(value)), type(value).__struct_config__.tag
    fields = [getattr(value, name) for name in value.__struct_fields__ if name != later]
    return (*(() if tag is None else (tag,)), *map(_without_later, fields))
