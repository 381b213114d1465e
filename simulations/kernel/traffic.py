"""Counters of the packets that a host sends, by kind.

Kinds are the tags of messages on the wire (protocol.md). Packets that kernels send on their
own are counted under tags that no message has.
"""

from collections.abc import Mapping
from typing import Final

from beiran.sansio.wire import HEADER_BYTES

TAG_AT: Final = HEADER_BYTES + 1  # after the header and the head of the msgpack array
TAG_BITS: Final = 31
KINDS_MAX: Final = 32  # tags on the wire are below
ARP: Final = 28
KEEPALIVE: Final = 29
TCP_CONTROL: Final = 31  # handshakes, acknowledgements, and closing
KERNEL_KINDS: Final = {ARP: "arp", KEEPALIVE: "keepalive", TCP_CONTROL: "tcp-control"}


class Traffic:
    """Packets and bytes (with all headers, Ethernet's included) that a host has sent.

    Args:
      names: of the kinds, by tag.
    """

    __slots__ = ("_names", "bytes_by_tag", "packets_by_tag")

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self.packets_by_tag = [0] * KINDS_MAX
        self.bytes_by_tag = [0] * KINDS_MAX

    def count(self, tag: int, packets: int, size_bytes: int) -> None:
        """Count packets that together have ``size_bytes``."""
        self.packets_by_tag[tag] += packets
        self.bytes_by_tag[tag] += size_bytes

    @property
    def packets(self) -> int:
        """All packets sent."""
        return sum(self.packets_by_tag)

    @property
    def bytes(self) -> int:
        """All bytes sent."""
        return sum(self.bytes_by_tag)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Return packets and bytes by name, of the kinds that were sent."""
        return {
            name: (self.packets_by_tag[tag], self.bytes_by_tag[tag])
            for tag, name in self._names.items()
            if self.packets_by_tag[tag]
        }
