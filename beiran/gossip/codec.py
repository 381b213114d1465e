"""Messages to bytes and back. Whatever the bytes are, reading them raises only ``BadPacket``.

A packet is four parts: two bytes of magic, one of wire version, four that tell clusters apart, and
a message in msgpack. A stream's body that gains from it is deflated, and the magic then says so.
"""

import hashlib
import ipaddress
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

from beiran.errors import BadPacket
from beiran.gossip.config import DATAGRAM_BYTES_MAX, STREAM_BYTES_MAX
from beiran.gossip.membership.member import Address
from beiran.gossip.messages import Datagram, News, Stream

MAGIC: Final = b"\xbe\x1a"
MAGIC_DEFLATED: Final = b"\xbe\x1d"
WIRE_VERSION: Final = 1
HEADER_BYTES: Final = 7
NEWS_MAX: Final = 256  # in one datagram; the smallest is 20 bytes, so 70 fit
DEFLATE_FROM_BYTES: Final = 512
DEFLATE_LEVEL: Final = 6

_encoder: Final = msgspec.msgpack.Encoder()
_datagrams: Final[msgspec.msgpack.Decoder[Datagram]] = msgspec.msgpack.Decoder(Datagram)
_streams: Final[msgspec.msgpack.Decoder[Stream]] = msgspec.msgpack.Decoder(Stream)
_news: Final[msgspec.msgpack.Decoder[News]] = msgspec.msgpack.Decoder(News)
_any: Final = msgspec.msgpack.Decoder(list[Raw])
_int: Final = msgspec.msgpack.Decoder(int)
_KNOWN_NEWS_TAGS: Final = frozenset(range(1, 7))
_T = TypeVar("_T")


class OtherCluster(BadPacket):
    """A packet of another cluster; well formed as far as we looked."""


class Codec:
    """Encodes and decodes the packets of one cluster.

    Args:
      cluster: its name; agents of other clusters are told apart by a hash of it.
    """

    def __init__(self, cluster: str) -> None:
        tag = hashlib.blake2b(cluster.encode(), digest_size=4, person=b"beiran").digest()
        self._tail = bytes([WIRE_VERSION]) + tag
        self._head = MAGIC + self._tail

    def encode_news(self, news: News) -> Raw:
        """``news`` as it travels inside other messages."""
        return Raw(_encoder.encode(news))

    def encode_datagram(self, message: Datagram) -> bytes:
        """``message`` as a datagram. The caller keeps it below ``DATAGRAM_BYTES_MAX``."""
        return self._head + _encoder.encode(message)

    def encode_stream(self, message: Stream) -> bytes:
        """``message`` as the body of a request or a reply, deflated where that is shorter."""
        body = _encoder.encode(message)
        if len(body) >= DEFLATE_FROM_BYTES:
            deflated = zlib.compress(body, DEFLATE_LEVEL)
            if len(deflated) < len(body):
                return MAGIC_DEFLATED + self._tail + deflated
        return self._head + body

    def decode_datagram_untrusted(self, data: bytes) -> Datagram:
        """Read a datagram from the network.

        Raises: BadPacket, or OtherCluster, which is one.
        """
        if len(data) > DATAGRAM_BYTES_MAX:
            raise BadPacket(f"a datagram of {len(data)} bytes is longer than {DATAGRAM_BYTES_MAX}")
        self._check_head(data)
        if data[:2] != MAGIC:
            raise BadPacket("a datagram must not be deflated")
        return _decode(_datagrams, memoryview(data)[HEADER_BYTES:])

    def decode_stream_untrusted(self, data: bytes) -> Stream:
        """Read the body of a request or a reply. Raises as ``decode_datagram_untrusted``."""
        if len(data) > STREAM_BYTES_MAX:
            raise BadPacket(f"a body of {len(data)} bytes is longer than {STREAM_BYTES_MAX}")
        self._check_head(data)
        body = memoryview(data)[HEADER_BYTES:]
        if data[:2] == MAGIC_DEFLATED:
            return _decode(_streams, _inflate_untrusted(body))
        return _decode(_streams, body)

    def decode_news_untrusted(self, raws: Sequence[Raw]) -> list[tuple[News, Raw]]:
        """Read the news in a message; what is of a kind we do not know is left out.

        Raises: BadPacket if any of a known kind is malformed, or there are too many.
        """
        if len(raws) > NEWS_MAX:
            raise BadPacket(f"{len(raws)} pieces of news in one message")
        known: list[tuple[News, Raw]] = []
        for raw in raws:
            try:
                known.append((_news.decode(raw), raw))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if _news_tag_untrusted(raw) in _KNOWN_NEWS_TAGS:
                    raise BadPacket(f"malformed news: {error}") from None
        return known

    def _check_head(self, data: bytes) -> None:
        if len(data) <= HEADER_BYTES or data[:2] not in (MAGIC, MAGIC_DEFLATED):
            raise BadPacket("not a beiran packet")
        if data[2] != WIRE_VERSION:
            raise BadPacket(f"wire version {data[2]}, and we speak {WIRE_VERSION}")
        if data[2:HEADER_BYTES] != self._tail:
            raise OtherCluster("a packet of another cluster")


def pack_host(address: Address) -> bytes:
    """The host of ``address`` in 4 or 16 bytes."""
    return ipaddress.ip_address(address.host).packed


def unpack_address_untrusted(host: bytes, port: int) -> Address:
    """The address that ``pack_host`` packed. Raises: BadPacket if it is neither 4 nor 16 bytes."""
    if len(host) not in (4, 16):
        raise BadPacket(f"an address of {len(host)} bytes")
    return Address(str(ipaddress.ip_address(host)), port)


def _decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes | memoryview) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadPacket(str(error)) from None


def _inflate_untrusted(data: memoryview) -> bytes:
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(data, STREAM_BYTES_MAX)
    except zlib.error as error:
        raise BadPacket(f"cannot be inflated: {error}") from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise BadPacket("cut off, or too long once inflated")
    return body


def _news_tag_untrusted(raw: Raw) -> int:
    """The tag of a piece of news, or one that we know if it has none (so that it is refused)."""
    try:
        return _int.decode(_any.decode(raw)[0])
    except (msgspec.DecodeError, IndexError, RecursionError):
        return min(_KNOWN_NEWS_TAGS)
