"""Gossip messages to bytes and back. Whatever the bytes are, reading raises only ``BadPacket``.

A packet is the header that ``beiran.sansio.wire`` describes and a message in msgpack. A stream's
body that gains from it is deflated, and the magic then says so.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final

from beiran.errors import BadPacket
from beiran.gossip.config import DATAGRAM_BYTES_MAX, STREAM_BYTES_MAX
from beiran.gossip.messages import NAMES_MAX, Datagram, News, NewsItem, Stream
from beiran.sansio.wire import Header, Typed, fields_of, pack, unpack_untrusted

MAGIC: Final = b"\xbe\x1a"
MAGIC_DEFLATED: Final = b"\xbe\x1d"
NEWS_MAX: Final = 256  # in one datagram; the smallest is 20 bytes, so 70 fit
STREAM_ITEMS_MAX: Final = 2**17  # of one array: ten times the members of the largest simulation
DEFLATE_FROM_BYTES: Final = 512  # below, deflating gains less than a packet's headers cost
DEFLATE_LEVEL: Final = 6  # zlib's default

_datagrams: Final[Typed[Datagram]] = Typed(Datagram)
_streams: Final[Typed[Stream]] = Typed(Stream)
_news: Final[Typed[tuple[News, ...]]] = Typed(tuple[News, ...])
_KNOWN_NEWS_TAGS: Final = frozenset(range(1, 7))


class Codec:
    """Encodes and decodes the packets of one cluster.

    Args:
      cluster: its name; a hash of it in each packet keeps clusters apart.
    """

    def __init__(self, cluster: str) -> None:
        self._header = Header(cluster)
        self._head = self._header.with_magic(MAGIC)

    def encode_news(self, news: News) -> NewsItem:
        """``news`` as it travels inside other messages."""
        item: NewsItem = _tuples(fields_of(news))
        return item

    def encode_datagram(self, message: Datagram) -> bytes:
        """``message`` as a datagram. The caller keeps it below ``DATAGRAM_BYTES_MAX``."""
        return self._head + pack(message)

    def encode_stream(self, message: Stream) -> bytes:
        """``message`` as the body of a request or a reply, deflated where that is shorter."""
        body = pack(message)
        if len(body) >= DEFLATE_FROM_BYTES:
            deflated = zlib.compress(body, DEFLATE_LEVEL)
            if len(deflated) < len(body):
                return self._header.with_magic(MAGIC_DEFLATED) + deflated
        return self._head + body

    def decode_datagram_untrusted(self, data: bytes) -> Datagram:
        """Read a datagram from the network.

        Raises: BadPacket, or OtherCluster, which is one.
        """
        if len(data) > DATAGRAM_BYTES_MAX:
            raise BadPacket(f"a datagram of {len(data)} bytes is longer than {DATAGRAM_BYTES_MAX}")
        body = self._header.body_untrusted(data, MAGIC)
        fields = unpack_untrusted(body, items_max=NAMES_MAX, tuples=True)
        return _datagrams.convert_untrusted(fields)

    def decode_stream_untrusted(self, data: bytes) -> Stream:
        """Read the body of a request or a reply. Raises as ``decode_datagram_untrusted``."""
        if len(data) > STREAM_BYTES_MAX:
            raise BadPacket(f"a body of {len(data)} bytes is longer than {STREAM_BYTES_MAX}")
        body: bytes | memoryview
        if data.startswith(MAGIC_DEFLATED):
            body = _inflate_untrusted(self._header.body_untrusted(data, MAGIC_DEFLATED))
        else:
            body = self._header.body_untrusted(data, MAGIC)
        return _streams.convert_untrusted(unpack_untrusted(body, items_max=STREAM_ITEMS_MAX))

    def decode_news_untrusted(self, items: Sequence[NewsItem]) -> list[tuple[News, NewsItem]]:
        """Read the news in a message, each with the item it came as, to be passed on.

        Items of a kind that this release does not know are left out.

        Raises: BadPacket if an item of a known kind is malformed, or there are too many.
        """
        if not items:
            return []
        if len(items) > NEWS_MAX:
            raise BadPacket(f"{len(items)} pieces of news in one message")
        if () in items:
            raise BadPacket("news without a tag")
        known = [item for item in items if item[0] in _KNOWN_NEWS_TAGS]
        return list(zip(_news.convert_untrusted(known), known, strict=True))


def _tuples(fields: Any) -> Any:
    """``fields`` with tuples for lists, as ``decode_datagram_untrusted`` unpacks them."""
    return tuple(map(_tuples, fields)) if isinstance(fields, list | tuple) else fields


def _inflate_untrusted(data: bytes | memoryview) -> bytes:
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(data, STREAM_BYTES_MAX)
    except zlib.error as error:
        raise BadPacket(f"cannot be inflated: {error}") from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise BadPacket("cut off, or too long once inflated")
    return body
