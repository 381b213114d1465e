"""The state hash: eight bytes by which two nodes see whether they know the same.

Each online member contributes a hash of its life and of the version of its holdings. The sum of
these does not depend on any order and follows a change in O(1). Two nodes with equal sums know the
same. Members that are offline contribute nothing, so that it does not matter which nodes have
already forgotten them.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

from beiran.gossip.membership.member import Member

STATE_HASH_MODULUS: Final = 2**63
_ENTRY: Final = struct.Struct(">16sQIQ")


def entry_hash(member: Member, version: int) -> int:
    """What a member contributes: 63 bits; 0 while it is offline."""
    if not member.status.online:
        return 0
    packed = _ENTRY.pack(member.node, member.generation, member.incarnation & 0xFFFFFFFF, version)
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return int.from_bytes(digest, "big") % STATE_HASH_MODULUS


def bucket_of(node: bytes, bits: int) -> int:
    """The bucket of a node among ``2**bits``: the first bits of its ID. ``bits`` is 0 to 12."""
    return int.from_bytes(node[:2], "big") >> (16 - bits)


def bucket_hashes(entries: Iterable[tuple[bytes, int]], bits: int) -> bytes:
    """The sums of ``(node, entry hash)`` for each of ``2**bits`` buckets, 8 bytes each."""
    sums = [0] * (1 << bits)
    for node, value in entries:
        bucket = bucket_of(node, bits)
        sums[bucket] = (sums[bucket] + value) % STATE_HASH_MODULUS
    return b"".join(value.to_bytes(8, "big") for value in sums)
