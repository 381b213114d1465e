"""Swarm messages to datagrams and back. Reading any bytes raises only ``BadPacket``.

A datagram is gossip's header with a magic of its own, and one message in msgpack
(``beiran.sansio.wire``). Gossip and the swarm share a UDP port: the magic separates them.
"""

from typing import Final

from beiran.errors import BadPacket
from beiran.sansio.wire import Header, Typed, pack, unpack_untrusted
from beiran.swarm.config import DATAGRAM_BYTES_MAX, HASHES_MAX
from beiran.swarm.messages import Message

MAGIC: Final = b"\xbe\x53"
ITEMS_MAX: Final = HASHES_MAX  # the longest array of any message

_messages: Final[Typed[Message]] = Typed(Message)


class SwarmCodec:
    """Encodes and decodes the swarm datagrams of one cluster.

    Args:
      cluster: its name. Datagrams carry a hash of it.
    """

    def __init__(self, cluster: str) -> None:
        self._header = Header(cluster)
        self._head = self._header.with_magic(MAGIC)

    def encode(self, message: Message) -> bytes:
        """``message`` as a datagram."""
        data = self._head + pack(message)
        assert len(data) <= DATAGRAM_BYTES_MAX, len(data)
        return data

    def decode_untrusted(self, data: bytes) -> Message:
        """Read a datagram from the network.

        Raises: BadPacket, or OtherCluster, which is one.
        """
        if len(data) > DATAGRAM_BYTES_MAX:
            raise BadPacket(f"a datagram of {len(data)} bytes is longer than {DATAGRAM_BYTES_MAX}")
        body = self._header.body_untrusted(data, MAGIC)
        return _messages.convert_untrusted(unpack_untrusted(body, items_max=ITEMS_MAX))


def is_swarm(data: bytes) -> bool:
    """Whether a datagram from the shared port is one of the swarm's."""
    return data.startswith(MAGIC)
