"""Put a newer fact about a member into the member table, and do what follows from it.

``member_updates``, ``suspicion_protocol`` and ``own_member`` decide which fact is taken over and
call ``MemberChanges.change``. It ends the suspicions, probes and watches that the fact makes
pointless, plans when to forget the member, and emits ``MemberChanged``.
"""

from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.effects import MemberChanged, MemberForgotten
from beiran.gossip.membership.awareness import Awareness
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.membership.ring_watch import RingWatch
from beiran.gossip.membership.suspicion import Suspicions
from beiran.gossip.timers import ReapDue, SuspicionDue
from beiran.ids import NodeId


class MemberChanges:
    """Changes the member table: the other parts of ``membership`` decide, this one acts."""

    def __init__(
        self,
        context: Context,
        dissemination: Dissemination,
        awareness: Awareness,
        suspicions: Suspicions,
        detector: FailureDetector,
        watches: RingWatch,
    ) -> None:
        self._context = context
        self._dissemination = dissemination
        self._awareness = awareness
        self._suspicions = suspicions
        self._detector = detector
        self._watches = watches

    def change(self, member: Member, *, reason: str = "", offline_for_s: float = 0.0) -> None:
        """Take over a newer fact. ``reason``: for operators, in the event that it leads to."""
        context = self._context
        known = context.members.get(member.node)
        previous = known.status if known is not None else None
        if context.members.remembered.pop(member.node, None) is not None:
            previous = Status.DOWN  # the store has it as down since the agent started
        if not context.members.put(member, now=context.now, offline_for_s=offline_for_s):
            return
        if member.status != Status.SUSPECT and self._suspicions.end(member.node):
            context.cancel_timer(SuspicionDue(member.node))
        if member.status.online:
            context.cancel_timer(ReapDue(member.node))
        else:
            self._detector.give_up(member.node)
            self._awareness.forget(member.node)
            forget_s = context.config.forget_s - offline_for_s
            context.set_timer(ReapDue(member.node), max(forget_s, 0.0))
            self._watches.end(member.node)
        came_or_went = previous is None or previous.online != member.status.online
        moved = known is not None and known.address != member.address
        if came_or_went or moved:
            self._watches.plan_update()
        context.emit(MemberChanged(member, previous, reason))

    def reap(self, node: NodeId) -> bool:
        """Forget a member that has been offline for ``forget_s``. Returns whether it was."""
        if self._context.members.offline_since(node) is None:
            return False
        self._dissemination.stop(node)
        self._awareness.forget(node)  # it may have sent a packet since it was down
        self._forget(node)
        return True

    def reap_remembered(self) -> list[NodeId]:
        """Forget the members of an earlier life that never showed themselves; returns them."""
        nodes = list(self._context.members.remembered)
        for node in nodes:
            self._forget(node)
        return nodes

    def _forget(self, node: NodeId) -> None:
        self._context.members.forget(node)
        self._context.emit(MemberForgotten(node))
