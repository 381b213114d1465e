"""What news missed is found by comparing pictures, and mended by a push-pull.

Every ping and ack carries the hash of the sender's picture. While news is under way pictures
differ for a moment; where a difference outlasts that, one of the two begins a push-pull over TCP:
hashes of its version vector's buckets, the entries of those that differ, and then what either side
lacks. In a cluster at rest nothing but the eight bytes is ever sent, however large it is.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from beiran.gossip.config import SYNC_WHOLE_MAX
from beiran.gossip.context import Context
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.messages import (
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
from beiran.gossip.timers import PushPullDue
from beiran.ids import DIGEST_BYTES, Digest, NodeId

IMPATIENCE_S: Final = 2.0  # a picture that never rests is compared all the same after this
FRUITLESS_FREE: Final = 4  # push-pulls in a row that may bring us nothing: they may help others
FRUITLESS_MAX_S: Final = 30.0
BUCKET_MEMBERS: Final = 16  # a bucket of the vector is about this large
BUCKET_BITS_MAX: Final = 12


class Exchange(Struct, frozen=True):
    """A push-pull that we began.

    Attributes:
      node: who is at the address, if we know; others do not wait for one with a stranger.
      picture: the hash of ours when it began.
      bits: of the buckets we told of.
    """

    address: Address
    node: NodeId | None
    picture: int
    bits: int


class AntiEntropy:
    """When to begin a push-pull, and what goes into it."""

    def __init__(self, context: Context, possession: Possession) -> None:
        self._context = context
        self._possession = possession
        self._exchanges: dict[int, Exchange] = {}
        self._differs_since: float | None = None
        self._scheduled: tuple[Address, NodeId | None, int] | None = None
        self._fruitless = 0
        self._not_before = 0.0
        self.changed_at = context.now

    @property
    def exchange_count(self) -> int:
        """How many push-pulls of ours are under way."""
        return len(self._exchanges)

    # --- when -------------------------------------------------------------------------------

    def compare(self, member: Member, picture: int) -> None:
        """A member has told its picture's hash."""
        context = self._context
        if picture == context.members.picture:
            self._differs_since = None
            self._fruitless = 0
            return
        if self._differs_since is None:
            self._differs_since = context.now
        patience = context.config.sync_patience_s
        settled = context.now - self.changed_at >= patience
        impatient = context.now - self._differs_since >= IMPATIENCE_S
        if settled or impatient:
            self.soon(member.address, member.node, within_s=patience, even_if_changed=impatient)

    def soon(
        self,
        address: Address,
        node: NodeId | None,
        *,
        within_s: float,
        even_if_changed: bool = True,
    ) -> None:
        """Begin a push-pull with an agent after a random part of ``within_s`` seconds.

        One at a time; if one is due already, nothing more. Unless ``even_if_changed``, it is not
        begun if our picture has changed by then, for then the next ping will tell.
        """
        if self._scheduled is not None or any(e.node for e in self._exchanges.values()):
            return
        context = self._context
        wait = max(context.random.uniform(0, within_s), self._not_before - context.now)
        self._scheduled = (address, node, -1 if even_if_changed else context.members.picture)
        context.set_timer(PushPullDue(), wait)

    def begin_scheduled(self) -> None:
        """The time for the push-pull that was scheduled has come."""
        if self._scheduled is None:
            return
        address, node, picture = self._scheduled
        self._scheduled = None
        if picture in (-1, self._context.members.picture):
            self.begin(address, node)

    def begin(self, address: Address, node: NodeId | None) -> None:
        """Begin a push-pull with the agent at ``address`` now. ``node``: who that should be."""
        context = self._context
        members = context.members
        bits = self._bits()
        entries = ((m.node, members.entry(m.node)) for m in members.all())
        message = SyncBegin(Alive.of(members.own), bucket_hashes(entries, bits))
        self._not_before = context.now + context.config.sync_gap_s
        context.counters["syncs_begun"] += 1
        token = context.request(address, message, timeout_s=context.config.request_timeout_s)
        self._exchanges[token] = Exchange(address, node, members.picture, bits)

    def failed(self, token: int) -> Exchange | None:
        """A request failed. Returns the exchange it was part of, or None if of none."""
        return self._exchanges.pop(token, None)

    # --- what: the side that answers --------------------------------------------------------

    def vector_for(self, message: SyncBegin) -> SyncVector:
        """The entries of the buckets in which we differ from the other side."""
        theirs = message.hashes
        count = len(theirs) // 8
        bits = count.bit_length() - 1
        members = self._context.members
        entries = ((m.node, members.entry(m.node)) for m in members.all())
        ours = bucket_hashes(entries, bits)
        differing = {
            bucket
            for bucket in range(count)
            if ours[bucket * 8 : bucket * 8 + 8] != theirs[bucket * 8 : bucket * 8 + 8]
        }
        listed = tuple(
            self._entry(member)
            for member in members.all()
            if bucket_of(member.node, bits) in differing
        )
        return SyncVector(Alive.of(members.own), tuple(sorted(differing)), listed)

    def answer_wants(self, wants: Iterable[SyncWant]) -> SyncExchange:
        """What the other side lacks."""
        members = self._context.members
        wanted = {want.node: want.version for want in wants if want.node in members}
        return self._pack(wanted, wanted, ())

    # --- what: the side that began ----------------------------------------------------------

    def continue_with(self, token: int, message: SyncVector) -> bool:
        """The other side's entries have come: push and pull what they call for.

        Facts about members offline for so long that they would be forgotten are not asked for.
        Returns whether anything was missing on either side.
        """
        exchange = self._exchanges.pop(token)
        push, wants = self._compare_entries(message, exchange.bits)
        if not push and not wants:
            self._note_outcome(changed=False)
            return False
        packed = self._pack(push, push, wants)
        timeout_s = self._context.config.request_timeout_s
        token = self._context.request(exchange.address, packed, timeout_s=timeout_s)
        self._exchanges[token] = exchange
        return True

    def finish(self, token: int) -> bool:
        """The other side's push has come and been applied. Returns whether it was asked for."""
        exchange = self._exchanges.pop(token, None)
        if exchange is None:
            return False
        self._note_outcome(changed=exchange.picture != self._context.members.picture)
        return True

    def address_asked(self, token: int) -> Address:
        """Where the push-pull of this token, which is one of ours, was begun."""
        return self._exchanges[token].address

    def awaits(self, token: int) -> bool:
        """Whether this is the token of a push-pull of ours."""
        return token in self._exchanges

    def _compare_entries(
        self, message: SyncVector, bits: int
    ) -> tuple[dict[NodeId, int], list[SyncWant]]:
        """What to push (with the version that the other side has), and what to want."""
        members = self._context.members
        listed = {entry.node for entry in message.entries}
        push: dict[NodeId, int] = {}
        wants: list[SyncWant] = []
        for entry in message.entries:
            member = members.get(entry.node)
            version = self._possession.version(entry.node)
            theirs = (entry.generation, entry.incarnation, _settled(entry.status))
            if member is None:
                if entry.age_s < self._context.config.forget_s:
                    wants.append(SyncWant(entry.node, version))
                continue
            ours = (member.generation, member.incarnation, _settled(member.status))
            if theirs > ours or entry.version > version:
                wants.append(SyncWant(entry.node, version))
            if theirs < ours or entry.version < version:
                push[entry.node] = entry.version
        differing = frozenset(message.buckets)
        for member in members.all():
            if member.node not in listed and bucket_of(member.node, bits) in differing:
                push[member.node] = 0
        return push, wants

    def _note_outcome(self, *, changed: bool) -> None:
        """After push-pulls that brought us nothing, wait ever longer before the next."""
        self._fruitless = 0 if changed else self._fruitless + 1
        self._differs_since = None
        if self._fruitless > FRUITLESS_FREE:
            pause = min(0.25 * 2.0 ** (self._fruitless - FRUITLESS_FREE), FRUITLESS_MAX_S)
            self._not_before = self._context.now + pause

    # --- packing ----------------------------------------------------------------------------

    def _bits(self) -> int:
        online = self._context.members.online_count
        if online <= SYNC_WHOLE_MAX:
            return 0
        return min(BUCKET_BITS_MAX, (online // BUCKET_MEMBERS).bit_length())

    def _age_s(self, node: NodeId) -> int:
        since = self._context.members.offline_since(node)
        return 0 if since is None else max(0, int(self._context.now - since))

    def _entry(self, member: Member) -> Entry:
        version = self._possession.version(member.node)
        return Entry(
            member.node,
            member.generation,
            member.incarnation,
            int(member.status),
            version,
            self._age_s(member.node),
        )

    def _pack(
        self,
        nodes: Iterable[NodeId],
        versions: dict[NodeId, int],
        wants: Iterable[SyncWant],
    ) -> SyncExchange:
        """Everything about ``nodes`` that is newer than ``versions`` of their holdings."""
        table: dict[Digest, int] = {}
        facts: list[SyncMember] = []
        deltas: list[SyncDelta] = []
        for node in nodes:
            member = self._context.members.get(node)
            if member is None:
                continue
            facts.append(
                SyncMember(
                    node,
                    member.generation,
                    member.incarnation,
                    member.address.packed_host,
                    member.address.port,
                    member.name,
                    int(member.status),
                    self._age_s(node),
                )
            )
            delta = self._possession.delta_since(node, versions.get(node, 0))
            if delta is not None:
                deltas.append(_intern(delta, table))
        own = self._context.members.own.node
        return SyncExchange(own, b"".join(table), tuple(facts), tuple(deltas), tuple(wants))


def unpack_deltas(message: SyncExchange) -> list[Delta]:
    """The deltas of an exchange, with images instead of places in its table."""
    table = message.table
    count = len(table) // DIGEST_BYTES
    digests = [Digest(table[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]) for i in range(count)]
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
