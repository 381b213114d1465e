"""The suspicion subprotocol: SWIM §4.2 with Lifeguard's timeouts (§IV-B), and two shortcuts.

The theory. A suspicion is a question put to the whole cluster: can any member reach this one? The
suspect itself answers by a larger incarnation, which only it can make. If that answer does not
come within the timeout (``suspicion``), each node declares the suspect down for itself, and says
so. A node does not declare members down for a fault of its own (``awareness``):

- Time in which it was deaf, or in which its process did not run, does not count.
- A member whose packets it receives itself is not declared down. It is pinged instead, at once, and
  the ping says that it is suspected.
- Just before the timeout ends, the suspect is pinged once more.

Two shortcuts make crashes known sooner. The ring neighbours of a suspect probe it at once, so that
independent accusations bring the timeout down to its minimum. And refused connections are certain
enough to skip the timeout: ``refusals_needed`` members whose connections were refused declare a
member down at once. Where fewer members could report a refusal, these suffice.
"""

from typing import Final

from msgspec.structs import replace

from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.membership.awareness import Awareness
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_changes import MemberChanges
from beiran.gossip.membership.merge_rule import GOSSIP, Ruling, rule
from beiran.gossip.membership.own_member import OwnMember
from beiran.gossip.membership.ring_watch import RingWatch
from beiran.gossip.membership.suspicion import Suspicion, Suspicions
from beiran.gossip.messages import Down, NewsItem, Suspect
from beiran.gossip.timers import SuspicionDue
from beiran.ids import NodeId

HEARD_LATELY_S: Final = 2.0
"""A member that sent this node a packet within this time is not taken for down on another's word.
Two packets a second are usual, so that it is silent for four of them before."""
TIME_TO_REFUTE_SHARE: Final = 0.5
"""Of the minimum timeout: another node's ``Down`` is not believed before a suspect had this part of
it to refute. That node may be in another part of a split network. Chosen, not measured."""
STREAM_CHECK_S: Final = 1.0  # for one connection to be refused; a LAN answers within milliseconds


class SuspicionProtocol:
    """Begins suspicions, counts accusers, and declares members down."""

    def __init__(
        self,
        context: Context,
        dissemination: Dissemination,
        awareness: Awareness,
        suspicions: Suspicions,
        detector: FailureDetector,
        watches: RingWatch,
        changes: MemberChanges,
        own: OwnMember,
    ) -> None:
        self._context = context
        self._dissemination = dissemination
        self._awareness = awareness
        self._suspicions = suspicions
        self._detector = detector
        self._watches = watches
        self._changes = changes
        self._own = own

    # --- first-hand evidence ----------------------------------------------------------------

    def hear(self, node: NodeId) -> None:
        """A packet has come from ``node`` itself."""
        context = self._context
        if node == context.members.own.node:  # a node that hears only itself is deaf all the same
            return
        deaf_s = self._awareness.hear(node)
        if deaf_s:
            context.counters["deaf_spells"] += 1
            self._excuse(deaf_s)
        suspicion = self._suspicions.get(node) if context.config.direct_evidence else None
        if suspicion is not None and suspicion.heard_at == suspicion.started_at:
            # Decide once the news in the packet, perhaps the refutation, is read.
            context.set_timer(SuspicionDue(node), 0.0)

    def was_away(self, seconds: float) -> None:
        """This process did not run: the time counts against no suspect."""
        self._awareness.was_away(seconds)
        if self._context.config.self_doubt:
            for suspicion in self._suspicions:
                suspicion.excused_s += seconds

    def _excuse(self, deaf_s: float) -> None:
        for suspicion in self._suspicions:
            ours_s = min(deaf_s, self._context.now - suspicion.started_at)
            suspicion.excused_s += min(ours_s, self._context.config.deaf_verdict_s)
            self._arm(suspicion)

    def accuse(self, node: NodeId, *, refused: bool = False) -> None:
        """This node itself could not reach a member. ``refused``: its host refused a connection."""
        members = self._context.members
        member = members.get(node)
        if member is None or not member.status.online or self._context.leaving:
            return
        if refused:
            self._context.counters["refusals"] += 1
        suspect = Suspect(node, member.generation, member.incarnation, members.own.node, refused)
        self.on_suspect(suspect, None, None)

    def on_udp_refused(self, address: Address) -> None:
        """A host says that no process listens on its agent's UDP port (ICMP)."""
        member = self._context.members.at(address)
        if member is not None and self._awareness.heard_at(member.node) is not None:
            self.accuse(member.node, refused=True)

    def on_tcp_refused(self, node: NodeId) -> None:
        """A member's host says that no process listens on its TCP port.

        If the member never answered over TCP, a firewall may refuse instead: then a probe decides.
        """
        member = self._context.members.get(node)
        if self._awareness.answered_by_tcp(node):
            self.accuse(node, refused=True)
        elif member is not None and member.status.online:
            self._detector.probe_now(node)

    def on_watch_broken(self, node: NodeId, *, refused: bool) -> None:
        """A watched member cannot be connected to. ``refused``: after a connection that worked."""
        member = self._context.members.get(node)
        if member is None or not member.status.online:
            return
        if refused:
            self._awareness.note_tcp_answer(node)
            self.on_tcp_refused(node)
        else:
            self._detector.probe_now(node)

    # --- accusations ------------------------------------------------------------------------

    def on_suspect(
        self, suspect: Suspect, item: NewsItem | None, heard_from: NodeId | None
    ) -> None:
        """A member could not be reached.

        Args:
          item: the news as it came, if it came so.
          heard_from: the member that passed it on; None where this node is the accuser.
        """
        if suspect.node == self._context.members.own.node:
            self._own.on_claim(suspect)
            return
        known = self._context.members.get(suspect.node)
        life = (suspect.generation, suspect.incarnation)
        if known is None or rule(GOSSIP, known, life, Status.SUSPECT) is Ruling.IGNORE:
            self._dissemination.on_echo(suspect, heard_from)
            return
        suspicion = self._suspicions.get(suspect.node)
        if suspicion is None or life > suspicion.life:
            suspicion = self._begin(known, suspect)
            is_new = True
        else:
            is_new = suspicion.accuse(suspect.by, refused=suspect.refused)
        if is_new and len(suspicion.accusers) <= suspicion.confirmations + 1:
            self._dissemination.spread(suspect, item, heard_from=heard_from)
            self._inform(suspicion, suspect, item)
            self._confirm(suspicion, refused=suspect.refused)
        else:
            self._dissemination.on_echo(suspect, heard_from)
        if self._refused_by_enough(suspicion):
            self._declare_down(suspicion, refused=True)
        else:
            self._arm(suspicion)

    def speaks_against(self, known: Member, down: Down) -> bool:
        """Whether this node has evidence against another's ``Down`` (``Ruling.WEIGH``).

        It has if it heard the member lately, or if the member, as far as this node knows, has had
        no time to refute.
        """
        if not self._context.config.direct_evidence or down.refused:
            return False
        now = self._context.now
        heard_at = self._awareness.heard_at(down.node)
        if heard_at is not None and now - heard_at < HEARD_LATELY_S:
            return True
        suspicion = self._suspicions.get(down.node)
        if suspicion is None or known.life != (down.generation, down.incarnation):
            return known.status.online
        return now - suspicion.started_at < suspicion.minimum_s * TIME_TO_REFUTE_SHARE

    def _begin(self, known: Member, suspect: Suspect) -> Suspicion:
        context, config = self._context, self._context.config
        online = max(1, context.members.online_count)  # 0 once this node has left a cluster of one
        minimum_s = config.suspicion_min_s(online)
        suspicion = Suspicion(
            node=suspect.node,
            generation=suspect.generation,
            incarnation=suspect.incarnation,
            started_at=context.now,
            minimum_s=minimum_s,
            maximum_s=minimum_s * config.suspicion_beta,
            confirmations=max(0, min(config.suspicion_confirmations, online - 2)),
            accusers=[suspect.by],
            refused=[suspect.by] if suspect.refused else [],
            heard_at=context.now,
        )
        self._changes.change(
            replace(
                known,
                generation=suspect.generation,
                incarnation=suspect.incarnation,
                status=Status.SUSPECT,
            ),
            reason=_reason(refused=suspect.refused),
        )
        self._dissemination.stop(suspect.node)
        self._suspicions.put(suspicion)
        context.counters["suspicions"] += 1
        return suspicion

    def _inform(self, suspicion: Suspicion, suspect: Suspect, item: NewsItem | None) -> None:
        """The first accuser and the suspect's watchers send the suspicion to the suspect itself."""
        if not self._context.config.confirm_at_once:
            return
        own = self._context.members.own.node
        if len(suspicion.accusers) == 1 and (
            own in suspicion.accusers or suspicion.node in self._watches
        ):
            news = item or self._context.codec.encode_news(suspect)
            self._dissemination.push_to([suspicion.node], [news])

    def _confirm(self, suspicion: Suspicion, *, refused: bool) -> None:
        """The ring neighbours of a suspect probe it at once, to confirm or clear the suspicion."""
        members, config = self._context.members, self._context.config
        own = members.own.node
        member = members.get(suspicion.node)
        if own in (suspicion.refused if refused else suspicion.accusers):
            return
        if member is None or not config.confirm_at_once:
            return
        if own not in members.neighbours(suspicion.node, config.confirmers, step=-1):
            return
        if refused:
            self._detector.stream_probe(member, None, timeout_s=STREAM_CHECK_S)
        self._detector.probe_now(suspicion.node)

    # --- the end of a suspicion -------------------------------------------------------------

    def decide(self, node: NodeId) -> None:
        """The timeout of a suspicion may have ended, or the suspect was heard."""
        context, config = self._context, self._context.config
        suspicion = self._suspicions.get(node)
        member = context.members.get(node)
        if suspicion is None or member is None:
            return
        heard_at = self._awareness.heard_at(node)
        if config.direct_evidence and heard_at is not None and heard_at > suspicion.heard_at:
            suspicion.heard_at = heard_at
            suspicion.excused_s = max(suspicion.excused_s, heard_at - suspicion.started_at)
            suspicion.last_call = False
            self._arm(suspicion)
            self._detector.ping(member)  # it perhaps does not know that it is suspected
            return
        if self._due_at(suspicion) > context.now:
            self._arm(suspicion)
            return
        deaf = config.deaf_s < self._awareness.silence_s < config.deaf_verdict_s
        if deaf and self._awareness.doubts_itself:
            context.set_timer(SuspicionDue(node), config.probe_timeout_s)
            return
        if config.last_call_s and not suspicion.last_call:
            suspicion.last_call = True
            self._detector.ping(member)
            context.set_timer(SuspicionDue(node), config.last_call_s)
            return
        self._declare_down(suspicion, refused=False)

    def _arm(self, suspicion: Suspicion) -> None:
        wait_s = self._due_at(suspicion) - self._context.now
        self._context.set_timer(SuspicionDue(suspicion.node), max(wait_s, 0.0))

    def _due_at(self, suspicion: Suspicion) -> float:
        """When to act on a suspicion next: at the last call, then at the end of the timeout."""
        lead_s = 0.0 if suspicion.last_call else self._context.config.last_call_s
        return suspicion.deadline - lead_s

    def _refused_by_enough(self, suspicion: Suspicion) -> bool:
        """Whether ``refusals_needed`` members were refused, or all that could be."""
        refusals = len(suspicion.refused)
        if not refusals or refusals >= self._context.config.refusals_needed:
            return refusals > 0
        own = self._context.members.own.node
        witnesses = 0
        for node in self._context.members.ring():
            if node in (own, suspicion.node):
                continue
            other = self._suspicions.get(node)
            if other is None or own not in other.refused:
                witnesses += 1
            if witnesses >= refusals:  # others may still report a refusal
                return False
        return True

    def _declare_down(self, suspicion: Suspicion, *, refused: bool) -> None:
        members = self._context.members
        known = members.get(suspicion.node)
        if known is None or self._context.leaving:
            return
        own = members.own.node
        down = Down(suspicion.node, suspicion.generation, suspicion.incarnation, own, refused)
        self._context.counters["verdicts"] += 1
        self._changes.change(replace(known, status=Status.DOWN), reason=_reason(refused=refused))
        self._dissemination.spread(down)
        for other in self._suspicions:  # one witness less: others may have enough refusals now
            running = self._suspicions.get(other.node) is other  # not ended by one before it
            if running and self._refused_by_enough(other):
                self._declare_down(other, refused=True)


def _reason(*, refused: bool) -> str:
    return "its host refuses connections" if refused else "no answer"
