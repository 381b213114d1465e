"""Anti-entropy: a difference that news left is found by state hashes, and mended by a push-pull.

Every ping and ack carries the state hash of its sender. While news is under way hashes differ for
a moment. Where a difference outlasts that, one of the two begins a push-pull over TCP:

    SyncBegin     ->  hashes of the buckets of its version vector
                  <-  SyncVector: the entries of the buckets that differ
    SyncExchange  ->  what the other side lacks, and what it is asked for
                  <-  SyncExchange: what was asked for

In a cluster at rest nothing but the eight bytes is ever sent, however large it is.
"""

from typing import Final

from msgspec import Struct

from beiran.gossip.context import Context
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_updates import MemberUpdates
from beiran.gossip.membership.own_member import OwnMember
from beiran.gossip.membership.suspicion_protocol import SuspicionProtocol
from beiran.gossip.messages import SyncBegin, SyncExchange, SyncVector
from beiran.gossip.possession import version_vector
from beiran.gossip.possession.holdings import Holdings
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.requests import PushPullRequest
from beiran.gossip.timers import PushPullDue
from beiran.ids import NodeId

IMPATIENCE_S: Final = 2.0
"""A state that never rests is compared all the same after this. Eight times ``sync_patience_s``:
in a cluster that changes all the time, a push-pull a node every two seconds at most."""
FRUITLESS_FREE: Final = 4  # push-pulls in a row that may bring us nothing: they may help others
FRUITLESS_FIRST_S: Final = 0.25  # then the pause begins at sync_patience_s, and doubles
FRUITLESS_MAX_S: Final = 30.0  # a difference that no push-pull mends costs two requests a minute
STRANGER_SYNC_S: Final = 0.03
"""A node that knows more than this one is asked after a random part of this: all that heard it at
one instant would ask at one instant otherwise."""
DEPARTED_S: Final = 1.0  # a member that left this long ago may still send: it is not asked why


class Scheduled(Struct, frozen=True):
    """A push-pull that is about to begin.

    Attributes:
      unless_changed_from: begin only if the state hash is still this; None: in any case.
    """

    address: Address
    node: NodeId | None
    unless_changed_from: int | None


class PushPull:
    """Begins push-pulls, answers those of others, and applies what they bring."""

    def __init__(
        self,
        context: Context,
        possession: Possession,
        holdings: Holdings,
        updates: MemberUpdates,
        suspicion: SuspicionProtocol,
        own: OwnMember,
    ) -> None:
        self._context = context
        self._possession = possession
        self._holdings = holdings
        self._updates = updates
        self._suspicion = suspicion
        self._own = own
        self._state_hash = context.members.state_hash
        self._changed_at = context.now
        self._differs_since: float | None = None
        self._scheduled: Scheduled | None = None
        self._fruitless = 0
        self._not_before = 0.0

    @property
    def count(self) -> int:
        """How many push-pulls that this node began are under way."""
        return sum(isinstance(r, PushPullRequest) for r in self._context.requests.values())

    # --- when -------------------------------------------------------------------------------

    def note_state(self) -> None:
        """Note when the state changed last. Called at the end of every input."""
        if self._context.members.state_hash != self._state_hash:
            self._state_hash = self._context.members.state_hash
            self._changed_at = self._context.now

    def meet(self, node: NodeId, source: Address, state_hash: int) -> None:
        """A node has shown itself and its state hash: compare, or get to know it."""
        context = self._context
        member = context.members.get(node)
        if member is not None and member.status.online:
            self._compare(member, state_hash)
        elif not context.leaving and not self._departs(member):
            address = member.address if member is not None else source
            self._begin_soon(address, node, within_s=STRANGER_SYNC_S)

    def begin_soon_with(self, member: Member | None) -> None:
        """A member knows more than this node, or less: begin a push-pull with it soon."""
        if member is not None:
            self._begin_soon(member.address, member.node, within_s=STRANGER_SYNC_S)

    def begin_scheduled(self) -> None:
        """The time for the push-pull that was scheduled has come."""
        scheduled, self._scheduled = self._scheduled, None
        if scheduled is not None and scheduled.unless_changed_from in (
            None,
            self._context.members.state_hash,
        ):
            self.begin(scheduled.address, scheduled.node)

    def begin(self, address: Address, node: NodeId | None) -> None:
        """Begin a push-pull now. ``node``: the member at ``address``, if it is known."""
        context = self._context
        members = context.members
        bits = version_vector.bucket_bits(members.online_count)
        self._not_before = context.now + context.config.sync_gap_s
        context.counters["syncs_begun"] += 1
        purpose = PushPullRequest(address, node, members.state_hash, bits)
        self._request(version_vector.begin(members, bits), purpose)

    def _compare(self, member: Member, state_hash: int) -> None:
        context = self._context
        if state_hash == context.members.state_hash:
            self._differs_since = None
            self._fruitless = 0
            return
        if self._differs_since is None:
            self._differs_since = context.now
        patience_s = context.config.sync_patience_s
        impatient = context.now - self._differs_since >= IMPATIENCE_S
        if impatient:
            self._begin_soon(member.address, member.node, within_s=patience_s)
        elif context.now - self._changed_at >= patience_s:
            # If the state changes before it begins, the next ping will compare again.
            self._begin_soon(
                member.address,
                member.node,
                within_s=patience_s,
                unless_changed_from=context.members.state_hash,
            )

    def _departs(self, member: Member | None) -> bool:
        if member is None or member.status != Status.LEFT:
            return False
        left_at = self._context.members.offline_since(member.node)
        return left_at is not None and self._context.now - left_at < DEPARTED_S

    def _begin_soon(
        self,
        address: Address,
        node: NodeId | None,
        *,
        within_s: float,
        unless_changed_from: int | None = None,
    ) -> None:
        """Schedule a push-pull after a random part of ``within_s`` seconds, unless one is due."""
        context = self._context
        under_way = any(
            isinstance(request, PushPullRequest) and request.node
            for request in context.requests.values()
        )
        if self._scheduled is not None or under_way:
            return
        wait_s = max(context.random.uniform(0, within_s), self._not_before - context.now)
        self._scheduled = Scheduled(address, node, unless_changed_from)
        context.set_timer(PushPullDue(), wait_s)

    def _note_outcome(self, *, changed: bool) -> None:
        """After push-pulls that brought nothing, pause ever longer before the next."""
        self._fruitless = 0 if changed else self._fruitless + 1
        self._differs_since = None
        if self._fruitless > FRUITLESS_FREE:
            pause_s = FRUITLESS_FIRST_S * 2.0 ** (self._fruitless - FRUITLESS_FREE)
            self._not_before = self._context.now + min(pause_s, FRUITLESS_MAX_S)

    def _request(self, message: SyncBegin | SyncExchange, purpose: PushPullRequest) -> None:
        timeout_s = self._context.config.request_timeout_s
        self._context.request(purpose.address, message, purpose, timeout_s=timeout_s)

    # --- the side that answers --------------------------------------------------------------

    def answer_begin(self, message: SyncBegin) -> SyncVector:
        """Another node begins a push-pull. Returns the reply, of before its sender is merged."""
        context = self._context
        reply = version_vector.differing_entries(
            context.members, self._possession, message, context.now
        )
        self._suspicion.hear(message.sender.node)
        self._updates.on_alive_itself(message.sender)
        return reply

    def answer_exchange(self, message: SyncExchange) -> SyncExchange:
        """The other side pushes, and wants something. Returns what it wants, as far as known."""
        self._apply(message)
        context = self._context
        versions = {w.node: w.version for w in message.wants if w.node in context.members}
        return version_vector.exchange(context.members, self._possession, versions, (), context.now)

    # --- the side that began ----------------------------------------------------------------

    def on_vector(self, purpose: PushPullRequest, message: SyncVector) -> None:
        """The other side's entries have come: push and want what they call for."""
        context = self._context
        self._suspicion.hear(message.sender.node)
        self._updates.on_alive_itself(message.sender)
        for entry in message.entries:
            if entry.node == context.members.own.node:
                self._holdings.outgrow(entry.version)
                if not Status(entry.status).online:
                    self._own.refute(entry.generation, entry.incarnation)
        push, wants = version_vector.compare(
            context.members, self._possession, context.config, message, purpose.bits
        )
        if not push and not wants:
            self._note_outcome(changed=False)
            return
        packed = version_vector.exchange(
            context.members, self._possession, push, wants, context.now
        )
        self._request(packed, purpose)

    def on_exchange(self, purpose: PushPullRequest, message: SyncExchange) -> None:
        """Apply the answer to this node's request."""
        self._apply(message)
        changed = purpose.state_hash != self._context.members.state_hash
        self._note_outcome(changed=changed)

    def _apply(self, message: SyncExchange) -> None:
        """Take over what the other side pushed, and pass on what is new and not a whole state."""
        members = self._context.members
        self._suspicion.hear(message.sender)
        spread = len(message.members) <= self._context.config.eager_sync_max
        for fact in message.members:
            self._updates.on_sync_member(fact, message.sender, spread=spread)
        applied = []
        for delta in version_vector.deltas_of(message):
            if delta.owner == members.own.node:
                self._holdings.outgrow(delta.version)
            elif delta.owner in members and self._holdings.apply(delta, message.sender):
                applied.append(delta)
        if applied:
            self._holdings.spread(applied, message.sender)
