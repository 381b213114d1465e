"""Swarm messages to datagrams and back. Whatever the bytes are, reading raises only ``BadPacket``.

A datagram has gossip's frame with a magic of its own: two bytes of magic, one of wire version,
four that tell clusters apart, a message in msgpack.
"""

import hashlib
from typing import Final

import msgspec

from beiran.errors import BadPacket
from beiran.sansio.wire import OtherCluster
from beiran.swarm.config import DATAGRAM_BYTES_MAX
from beiran.swarm.messages import Message

MAGIC: Final = b"\xbe\x53"
WIRE_VERSION: Final = 1
HEADER_BYTES: Final = 7

_encoder: Final = msgspec.msgpack.Encoder()
_messages: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


class SwarmCodec:
    """Encodes and decodes the swarm datagrams of one cluster.

    Args:
      cluster: its name; agents of other clusters are told apart by a hash of it.
    """

    def __init__(self, cluster: str) -> None:
        tag = hashlib.blake2b(cluster.encode(), digest_size=4, person=b"beiran").digest()
        self._head = MAGIC + bytes([WIRE_VERSION]) + tag

    def encode(self, message: Message) -> bytes:
        """``message`` as a datagram."""
        data = self._head + _encoder.encode(message)
        assert len(data) <= DATAGRAM_BYTES_MAX, len(data)
        return data

    def decode_untrusted(self, data: bytes) -> Message:
        """Read a datagram from the network.

        Raises: BadPacket, or OtherCluster, which is one.
        """
        if len(data) > DATAGRAM_BYTES_MAX:
            raise BadPacket(f"a datagram of {len(data)} bytes is longer than {DATAGRAM_BYTES_MAX}")
        if len(data) <= HEADER_BYTES or data[:2] != MAGIC:
            raise BadPacket("not a swarm datagram")
        if data[2] != WIRE_VERSION:
            raise BadPacket(f"wire version {data[2]}, and we speak {WIRE_VERSION}")
        if data[:HEADER_BYTES] != self._head:
            raise OtherCluster("a datagram of another cluster")
        try:
            return _messages.decode(memoryview(data)[HEADER_BYTES:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadPacket(str(error)) from None


def is_swarm(data: bytes) -> bool:
    """Whether a datagram that came in on the shared port is for the swarm."""
    return data[:2] == MAGIC
