"""The messages of a push-pull, made from what a node knows: buckets, entries, facts, deltas.

Pure functions: they read the member table and the owner logs, and change nothing. ``push_pull``
decides when they are sent, and what becomes of those that come.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from beiran.gossip.config import SYNC_WHOLE_MAX, GossipConfig
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.membership.member_table import MemberTable
from beiran.gossip.messages import (
    HASH_BYTES,
    Alive,
    Delta,
    Entry,
    Held,
    SyncBegin,
    SyncDelta,
    SyncExchange,
    SyncHeld,
    SyncMember,
    SyncVector,
    SyncWant,
)
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.possession.state_hash import bucket_hashes, bucket_of
from beiran.ids import DIGEST_BYTES, Digest, NodeId

BUCKET_MEMBERS: Final = 16
"""About as many members share a bucket: one that differs costs 16 entries of 36 bytes, and the
hashes of all cost half a byte a member. Chosen, not measured."""
BUCKET_BITS_MAX: Final = 12  # 4,096 hashes are 32 KiB, deflated hardly less


def bucket_bits(online: int) -> int:
    """Choose the base-2 logarithm of the number of buckets for ``online`` members."""
    if online <= SYNC_WHOLE_MAX:
        return 0
    return min(BUCKET_BITS_MAX, (online // BUCKET_MEMBERS).bit_length())


def begin(members: MemberTable, bits: int) -> SyncBegin:
    """The first message: a hash for each bucket."""
    return SyncBegin(Alive.of(members.own), _hashes(members, bits))


def differing_entries(
    members: MemberTable, possession: Possession, message: SyncBegin, now: float
) -> SyncVector:
    """The reply: the buckets whose hashes differ from ``message``, and all entries in them."""
    count = len(message.hashes) // HASH_BYTES
    bits = count.bit_length() - 1
    ours = _hashes(members, bits)
    differing = {
        bucket
        for bucket in range(count)
        if _slice(ours, bucket, HASH_BYTES) != _slice(message.hashes, bucket, HASH_BYTES)
    }
    entries = tuple(
        Entry(
            member.node,
            member.generation,
            member.incarnation,
            int(member.status),
            possession.version(member.node),
            _age_s(members, member.node, now),
        )
        for member in members.all()
        if bucket_of(member.node, bits) in differing
    )
    return SyncVector(Alive.of(members.own), tuple(sorted(differing)), entries)


def compare(
    members: MemberTable,
    possession: Possession,
    config: GossipConfig,
    message: SyncVector,
    bits: int,
) -> tuple[dict[NodeId, int], list[SyncWant]]:
    """What to push, each with the version that the other side has of it, and what to want.

    Facts about members that would be forgotten at once, offline as they are, are not wanted.
    """
    push: dict[NodeId, int] = {}
    wants: list[SyncWant] = []
    for entry in message.entries:
        member = members.get(entry.node)
        version = possession.version(entry.node)
        if member is None:
            if entry.age_s < config.forget_s:
                wants.append(SyncWant(entry.node, version))
            continue
        theirs = (entry.generation, entry.incarnation, _settled(entry.status))
        ours = (member.generation, member.incarnation, _settled(member.status))
        if theirs > ours or entry.version > version:
            wants.append(SyncWant(entry.node, version))
        if theirs < ours or entry.version < version:
            push[entry.node] = entry.version
    listed = {entry.node for entry in message.entries}
    differing = frozenset(message.buckets)
    for member in members.all():
        if member.node not in listed and bucket_of(member.node, bits) in differing:
            push[member.node] = 0
    return push, wants


def exchange(
    members: MemberTable,
    possession: Possession,
    versions: Mapping[NodeId, int],
    wants: Iterable[SyncWant],
    now: float,
) -> SyncExchange:
    """All that is known of some members.

    Args:
      versions: of the members' holdings, as the receiver has them: deltas begin there.
      wants: what is asked of the receiver in return.
    """
    table: dict[Digest, int] = {}
    facts: list[SyncMember] = []
    deltas: list[SyncDelta] = []
    for node, version in versions.items():
        member = members.get(node)
        if member is None:
            continue
        facts.append(_fact(member, _age_s(members, node, now)))
        delta = possession.delta_since(node, version)
        if delta is not None:
            deltas.append(_intern(delta, table))
    return SyncExchange(
        members.own.node, b"".join(table), tuple(facts), tuple(deltas), tuple(wants)
    )


def deltas_of(message: SyncExchange) -> list[Delta]:
    """The deltas of an exchange, with images instead of places in its table."""
    count = len(message.table) // DIGEST_BYTES
    digests = [Digest(_slice(message.table, place, DIGEST_BYTES)) for place in range(count)]
    return [
        Delta(
            delta.owner,
            delta.since,
            delta.version,
            tuple(Held(digests[h.image], h.tags, h.digests) for h in delta.held),
            tuple(digests[place] for place in delta.released),
        )
        for delta in message.deltas
    ]


def _hashes(members: MemberTable, bits: int) -> bytes:
    return bucket_hashes(((m.node, members.entry(m.node)) for m in members.all()), bits)


def _slice(data: bytes, place: int, size: int) -> bytes:
    return data[place * size : (place + 1) * size]


def _age_s(members: MemberTable, node: NodeId, now: float) -> int:
    since = members.offline_since(node)
    return 0 if since is None else max(0, int(now - since))


def _fact(member: Member, age_s: int) -> SyncMember:
    return SyncMember(
        member.node,
        member.generation,
        member.incarnation,
        member.address.packed_host,
        member.address.port,
        member.name,
        int(member.status),
        age_s,
    )


def _intern(delta: Delta, table: dict[Digest, int]) -> SyncDelta:
    def place(image: Digest) -> int:
        return table.setdefault(image, len(table))

    return SyncDelta(
        delta.owner,
        delta.since,
        delta.version,
        tuple(SyncHeld(place(held.image), held.tags, held.digests) for held in delta.held),
        tuple(place(image) for image in delta.released),
    )


def _settled(status: int) -> int:
    # A suspicion is not news that a push-pull needs to carry: it is refuted or becomes a fact.
    return int(Status.ALIVE) if status == Status.SUSPECT else int(status)
