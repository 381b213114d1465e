"""Messages to bytes and back: the part of a codec that both cores have.

A packet is a header of seven bytes and one message in msgpack. ``msgpack`` packs and unpacks;
msgspec's ``convert`` then types and checks each field, so that a message that was read is well
formed. ``beiran.gossip.codec`` and ``beiran.swarm.codec`` call this with unions of their own
messages, which are tagged ``array_like`` structs.

Functions and methods that take bytes from the network end in ``_untrusted`` and raise only
``BadPacket``.
"""

import hashlib
from typing import Any, Final, Generic, TypeVar

import msgpack
import msgspec

from beiran.errors import BadPacket

WIRE_VERSION: Final = 1
HEADER_BYTES: Final = 7  # 2 of magic, 1 of version, 4 of the hash of the cluster's name
_MAGIC_BYTES: Final = 2
_KEPT: Final = (bytes,)  # msgspec reads and writes base64 text otherwise
_packer: Final = msgpack.Packer()
T = TypeVar("T")


class OtherCluster(BadPacket):
    """A packet of another cluster; well formed as far as it was read."""


class Header:
    """The first seven bytes of a cluster's packets: two of magic, the version, four of cluster.

    Args:
      cluster: its name; BLAKE2b-32 of it keeps clusters on one network apart.
    """

    def __init__(self, cluster: str) -> None:
        tag = hashlib.blake2b(cluster.encode(), digest_size=4, person=b"beiran").digest()
        self._tail = bytes([WIRE_VERSION]) + tag

    def with_magic(self, magic: bytes) -> bytes:
        """The header that begins with ``magic``."""
        return magic + self._tail

    def body_untrusted(self, data: bytes, magic: bytes) -> memoryview:
        """What follows the header.

        Raises: BadPacket if the magic or the wire version is another, or nothing follows;
        OtherCluster, which is a BadPacket, if only the cluster is another.
        """
        if len(data) <= HEADER_BYTES or not data.startswith(magic):
            raise BadPacket("not a beiran packet of this kind")
        if not data.startswith(self._tail, _MAGIC_BYTES):
            version = data[_MAGIC_BYTES]
            if version != WIRE_VERSION:
                raise BadPacket(f"wire version {version}, and this agent has {WIRE_VERSION}")
            raise OtherCluster("a packet of another cluster")
        return memoryview(data)[HEADER_BYTES:]


def fields_of(message: msgspec.Struct) -> Any:
    """``message`` as msgpack packs it: its tag and its fields, nested messages likewise."""
    return msgspec.to_builtins(message, builtin_types=_KEPT)


def pack(message: msgspec.Struct) -> bytes:
    """``message`` in msgpack."""
    packed: bytes = _packer.pack(fields_of(message))
    return packed


def packed_bytes(fields: object) -> int:
    """How many bytes ``fields`` take in msgpack."""
    return len(_packer.pack(fields))


def unpack_untrusted(data: bytes | memoryview, *, items_max: int, tuples: bool = False) -> Any:
    """What ``data`` says, untyped: integers, text, bytes, booleans, None, floats, and arrays.

    No message has maps or extension types, so that both are refused.

    Args:
      items_max: the largest array. msgpack allots an array when it reads its length, before its
        items: without a limit five bytes would claim gigabytes.
      tuples: make arrays tuples, which are hashable, instead of lists. Only for short ``data``:
        the pages of a list that is never filled stay untouched, those of a tuple do not.

    Raises: BadPacket.
    """
    try:
        return msgpack.unpackb(
            data,
            use_list=not tuples,
            max_array_len=items_max,
            max_bin_len=len(data),
            max_str_len=len(data),
            max_map_len=0,
            max_ext_len=0,
        )
    except ValueError as error:  # cut off, malformed, too deep, not UTF-8, or more behind it
        raise BadPacket(f"not msgpack within limits: {error}") from None


class Typed(Generic[T]):
    """Types and checks unpacked values as one of the structs of a union.

    The union stands in the field of a struct: ``convert`` keeps what it has found out about a
    struct, but inspects a bare union anew each time (8 µs instead of 1 µs).

    Args:
      union: the type; of tagged ``array_like`` structs, or a tuple of them.
    """

    def __init__(self, union: Any) -> None:
        self._box = msgspec.defstruct("Box", [("value", union)], array_like=True)

    def convert_untrusted(self, fields: object) -> T:
        """Raises: BadPacket if ``fields`` are not those of any message of the union."""
        try:
            value: T = msgspec.convert((fields,), self._box, builtin_types=_KEPT).value  # type: ignore[attr-defined]
        except (msgspec.ValidationError, RecursionError) as error:
            raise BadPacket(str(error)) from None
        return value
