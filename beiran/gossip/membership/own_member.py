"""This node as a member: it alone decides its own status.

When another member announces this node as suspect, down or left, this node refutes with a larger
incarnation, which only it can make (SWIM §4.2). When another agent announces this node's UUID at
another address, this node reports a cloned machine to the operator.
"""

from typing import Final

from msgspec.structs import replace

from beiran.gossip.config import COUNT_CREDIBLE_MAX
from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.effects import IdentityConflict
from beiran.gossip.membership.awareness import Awareness
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_changes import MemberChanges
from beiran.gossip.messages import Alive, Left, MemberNews, NewsItem

CONFLICT_INTERVAL_S: Final = 10.0  # between two reports of an identity conflict: for the log's sake


class OwnMember:
    """Announces and defends this node's own state."""

    def __init__(
        self,
        context: Context,
        dissemination: Dissemination,
        awareness: Awareness,
        changes: MemberChanges,
    ) -> None:
        self._context = context
        self._dissemination = dissemination
        self._awareness = awareness
        self._changes = changes
        self._conflict_at = -CONFLICT_INTERVAL_S

    def on_claim(self, claim: MemberNews) -> None:
        """Another member says something about this node."""
        if isinstance(claim, Alive):
            self._on_own_alive(claim)
        else:
            self.refute(claim.generation, claim.incarnation)

    def refute(self, generation: int, incarnation: int) -> None:
        """Others hold this life of ours, or a later one, for ended: begin one beyond it."""
        context = self._context
        own = context.members.own
        if context.leaving or (generation, incarnation) < own.life:
            return
        if generation > COUNT_CREDIBLE_MAX:
            context.counters["incredible_claims"] += 1
            return
        context.counters["refutations"] += 1
        self._awareness.worsen()
        # A generation above ours is one that we have forgotten (the clock went back): go past it.
        past = generation + 1 if generation > own.generation else own.generation
        if incarnation >= COUNT_CREDIBLE_MAX:  # no room above it: a new generation has some
            past, incarnation = generation + 1, 0
        self._renew(replace(own, generation=past, incarnation=incarnation + 1), reason="refuted")

    def move_to(self, address: Address) -> None:
        """Announce another address."""
        own = self._context.members.own
        if address == own.address or self._context.leaving:  # leaving is the last thing announced
            return
        self._renew(replace(own, address=address, incarnation=own.incarnation + 1), reason="moved")

    def leave(self) -> NewsItem:
        """Announce that this node leaves. Returns that piece of news."""
        own = self._context.members.own
        left = Left(own.node, own.generation, own.incarnation + 1)
        member = replace(own, incarnation=own.incarnation + 1, status=Status.LEFT)
        self._changes.change(member, reason="leaving")
        self._dissemination.spread(left)
        return self._context.codec.encode_news(left)

    def _on_own_alive(self, alive: Alive) -> None:
        context = self._context
        own = context.members.own
        if (alive.generation, alive.incarnation) < own.life:
            return
        if alive.address != own.address:
            if context.now - self._conflict_at >= CONFLICT_INTERVAL_S:
                self._conflict_at = context.now
                context.counters["identity_conflicts"] += 1
                context.emit(IdentityConflict(alive.address))
        elif (alive.generation, alive.incarnation) > own.life:
            self.refute(alive.generation, alive.incarnation)

    def _renew(self, own: Member, *, reason: str) -> None:
        self._changes.change(own, reason=reason)
        self._dissemination.spread(Alive.of(own))
