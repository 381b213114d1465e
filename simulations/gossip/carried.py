"""No codec: a message is handed over as the object it is, inside bytes of about its length.

It saves little (the real one is C code) and costs fidelity: lengths are estimates, nothing is ever
malformed, and what would not survive a round trip does. News keeps its real bytes, for the core
counts them.
"""

from typing import Final, Self, cast

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.gossip.messages import Datagram, Stream
from beiran.sansio.wire import packed_bytes
from simulations.gossip.memo import MemoCodec

FIXED_BYTES: Final = 32  # of what is not news in an average ping, ack or gossip
DESCRIPTION_BYTES: Final = 300
ENTRY_BYTES: Final = 36


class Carried(bytes):
    """A packet with its message inside."""

    message: Struct

    @classmethod
    def of(cls, message: Struct) -> Self:
        """Wrap a message; the tag stands where the real codec puts it."""
        tag = type(message).__struct_config__.tag
        assert isinstance(tag, int)
        head = b"\xbe\x1a\x01\x00\x00\x00\x00\x90" + bytes([tag])
        packet = cls(head + bytes(_length(message)))
        packet.message = message
        return packet


class CarriedCodec(MemoCodec):
    """What ``World(carried=True)`` uses."""

    def encode_datagram(self, message: Datagram) -> bytes:
        """Wrap."""
        return Carried.of(message)

    def encode_stream(self, message: Stream) -> bytes:
        """Wrap."""
        return Carried.of(message)

    def decode_datagram_untrusted(self, data: bytes) -> Datagram:
        """Unwrap. Raises: BadPacket for what nobody wrapped."""
        return cast(Datagram, _unwrap(data))

    def decode_stream_untrusted(self, data: bytes) -> Stream:
        """Unwrap. Raises: BadPacket for what nobody wrapped."""
        return cast(Stream, _unwrap(data))


def _unwrap(data: bytes) -> Struct:
    if not isinstance(data, Carried):
        raise BadPacket("not a message that was handed over")
    return data.message


def _length(message: Struct) -> int:
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
