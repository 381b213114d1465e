"""What is believed of each member: facts are merged, suspicions run, verdicts fall.

The theory. A member's state only ever moves up in ``Member.precedence``. A suspicion is a question
put to the whole cluster: the suspect answers it by a larger incarnation (only it can make one), and
if nobody hears that answer in time, each node declares it down for itself and says so. What keeps a
node from condemning others for its own deafness:

- time in which it heard nobody, or in which it was not running, does not count against a suspect;
- whom it hears with its own ears it does not declare down, whatever it is told, but tells it at
  once that it is suspected;
- a suspect is asked once more before the verdict.

A refused connection is quick evidence: with a second member's (or alone, where there is no second)
it is enough. Sources: SWIM §4.2, Lifeguard §IV.
"""

from collections.abc import Callable

from msgspec.structs import replace

from beiran.gossip.config import COUNT_CREDIBLE_MAX
from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.effects import IdentityConflict, MemberChanged, MemberForgotten, Unwatch, Watch
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.suspicion_timeout import Suspicion
from beiran.gossip.messages import Alive, Down, Left, MemberNews, NewsItem, Suspect, SyncMember
from beiran.gossip.timers import ReapDue, RewatchDue, SuspicionDue
from beiran.ids import NodeId

HEARD_LATELY_S = 2.0  # a member we ourselves heard this long ago is not down because others say so
TIME_TO_REFUTE_SHARE = 0.5  # of the least suspicion time: before it is over no verdict is believed
CONFLICT_INTERVAL_S = 10.0
REWATCH_S = 0.2  # members come in crowds; watch whoever stands there afterwards
STREAM_CHECK_S = 1.0


class Verdicts:
    """The members' states, and how they come about."""

    def __init__(self, context: Context, dissemination: Dissemination) -> None:
        self._context = context
        self._dissemination = dissemination
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._heard_at: dict[NodeId, float] = {}
        self._last_heard = context.now
        self._watched: dict[NodeId, Address] = {}
        self._reached_by_tcp: set[NodeId] = set()
        self._conflict_at = -CONFLICT_INTERVAL_S
        self.leaving = False
        self.detector: FailureDetector  # handed in once both exist
        self.recall: Callable[[NodeId], Member | None]

    # --- hearing ----------------------------------------------------------------------------

    def hear(self, node: NodeId) -> None:
        """A packet has come from ``node`` itself."""
        context = self._context
        if node == context.members.own.node:  # who talks to itself may be deaf all the same
            return
        silence = context.now - self._last_heard
        if silence > context.config.deaf_s and self._doubts_itself:
            self.excuse(silence)
            context.counters["deaf_spells"] += 1
        self._last_heard = context.now
        if node in context.members:
            self._heard_at[node] = context.now
        suspicion = self._suspicions.get(node) if context.config.direct_evidence else None
        if suspicion is not None and suspicion.heard_at == suspicion.started_at:
            context.set_timer(SuspicionDue(node), 0.0)  # once its news, perhaps an answer, are read

    @property
    def hears_nobody(self) -> bool:
        """Whether there should be others and we have heard from none of them for a while."""
        silence = self._context.now - self._last_heard
        return self._context.members.online_count > 1 and silence > self._context.config.deaf_s

    def last_heard(self) -> dict[NodeId, float]:
        """When each online member was last heard, of those that were."""
        return dict(self._heard_at)

    @property
    def suspicion_count(self) -> int:
        """How many members are suspected."""
        return len(self._suspicions)

    @property
    def heard_count(self) -> int:
        """Of how many members it is known when they were heard."""
        return len(self._heard_at)

    def was_away(self, seconds: float) -> None:
        """This process did not run for a while: all its timers were late by as much."""
        self._last_heard += seconds
        if self._context.config.self_doubt:
            for suspicion in self._suspicions.values():
                suspicion.excused_s += seconds

    def excuse(self, seconds: float) -> None:
        """We were deaf: that time does not count against anybody."""
        for suspicion in self._suspicions.values():
            ours = min(seconds, self._context.now - suspicion.started_at)
            suspicion.excused_s += min(ours, self._context.config.deaf_verdict_s)
            self._arm(suspicion)

    @property
    def _doubts_itself(self) -> bool:
        return self._context.config.self_doubt and self._context.members.online_count > 2

    # --- facts ------------------------------------------------------------------------------

    def on_news(self, news: MemberNews, item: NewsItem, heard_from: NodeId, *, eager: bool) -> None:
        """A fact about a member, told by another."""
        match news:
            case Alive():
                self.on_alive(news, item, heard_from, eager=eager)
            case Suspect():
                self.on_suspect(news, item, heard_from)
            case Down():
                self._on_down(news, item, heard_from)
            case Left():
                self._on_left(news, item, heard_from)

    def on_alive(
        self, alive: Alive, item: NewsItem | None, heard_from: NodeId, *, eager: bool
    ) -> None:
        """A member says that it is alive; ``item`` is None where it need not be passed on."""
        address = alive.address
        if alive.node == self._context.members.own.node:
            self._on_alive_of_ourselves(alive, address)
            return
        member = Member(
            alive.node, alive.name, address, alive.generation, alive.incarnation, Status.ALIVE
        )
        known = self._context.members.get(alive.node)
        if known is not None and known.precedence >= member.precedence:
            self._dissemination.echo(_key(alive), heard_from)
            return
        self._change(member)
        if item is not None:
            self._tell(alive, item, heard_from, eager=eager)

    def on_suspect(self, suspect: Suspect, item: NewsItem, heard_from: NodeId | None) -> None:
        """Somebody (perhaps ourselves) could not reach a member."""
        members = self._context.members
        life = (suspect.generation, suspect.incarnation)
        if suspect.node == members.own.node:
            self.refute(suspect.generation, suspect.incarnation)
            return
        known = members.get(suspect.node)
        if (
            known is None
            or life < (known.generation, known.incarnation)
            or (life == (known.generation, known.incarnation) and not known.status.online)
        ):
            self._echo(suspect, heard_from)
            return
        suspicion = self._suspicions.get(suspect.node)
        if suspicion is None or life > (suspicion.generation, suspicion.incarnation):
            suspicion = self._begin_suspicion(known, suspect)
            news = True
        else:
            news = suspicion.accuse(suspect.by, refused=suspect.refused)
        if not news or len(suspicion.accusers) > suspicion.confirmations + 1:
            self._echo(suspect, heard_from)
        else:
            self._dissemination.also(
                _key(suspect), item, subject=suspect.node, heard_from=heard_from
            )
            self._tell_suspect(suspicion, item)
            self._confirm(suspicion, refused=suspect.refused)
        if self._refused_enough(suspicion):
            self._declare_down(suspicion, refused=True)
        else:
            self._arm(suspicion)

    def on_sync_member(self, fact: SyncMember, heard_from: NodeId, *, eager: bool) -> None:
        """A fact from a push-pull. What the other side holds for down we only suspect: it may
        come out of another part of a split network, or be long refuted."""
        context = self._context
        known = context.members.get(fact.node)
        alive = Alive(fact.node, fact.generation, fact.incarnation, fact.host, fact.port, fact.name)
        status = Status(fact.status)
        if fact.node == context.members.own.node:
            if status == Status.ALIVE:
                self.on_alive(alive, None, heard_from, eager=eager)
            else:
                self.refute(fact.generation, fact.incarnation)
            return
        if status.online:
            item = context.codec.encode_news(alive) if eager else None
            self.on_alive(alive, item, heard_from, eager=eager)
        if status == Status.SUSPECT or (
            status == Status.DOWN and known is not None and known.status.online
        ):
            suspect = Suspect(fact.node, fact.generation, fact.incarnation, heard_from)
            self.on_suspect(suspect, context.codec.encode_news(suspect), heard_from)
        elif not status.online:
            self._on_sync_offline(fact, status)

    def reached_by_tcp(self, node: NodeId) -> None:
        """A member has answered over TCP: should it refuse later, that means something."""
        if node in self._context.members:
            self._reached_by_tcp.add(node)

    def refused_by(self, node: NodeId) -> None:
        """A member's host says that nobody listens on its TCP port.

        Where nobody of ours was ever let in, a firewall may say so, and UDP has to tell.
        """
        member = self._context.members.get(node)
        if node in self._reached_by_tcp:
            self.accuse(node, refused=True)
        elif member is not None and member.status.online:
            self.detector.probe_now(node)

    def accuse(self, node: NodeId, *, refused: bool) -> None:
        """We ourselves could not reach a member."""
        members = self._context.members
        member = members.get(node)
        if member is None or not member.status.online or self.leaving:
            return
        if refused:
            self._context.counters["refusals"] += 1
        suspect = Suspect(node, member.generation, member.incarnation, members.own.node, refused)
        self.on_suspect(suspect, self._context.codec.encode_news(suspect), None)

    def suspicion_news(self, node: NodeId) -> list[NewsItem]:
        """What a suspect is told with whatever is sent to it. Lifeguard §IV-C, Buddy System."""
        suspicion = self._suspicions.get(node)
        if suspicion is None or not self._context.config.buddy:
            return []
        own = self._context.members.own.node
        suspect = Suspect(node, suspicion.generation, suspicion.incarnation, own)
        return [self._context.codec.encode_news(suspect)]

    def verdict(self, node: NodeId) -> None:
        """The time of a suspicion may be over."""
        context = self._context
        suspicion = self._suspicions.get(node)
        if suspicion is None:
            return
        config = context.config
        member = context.members.get(node)
        heard = self._heard_at.get(node, suspicion.started_at)
        if config.direct_evidence and heard > suspicion.heard_at and member is not None:
            suspicion.heard_at = heard
            suspicion.excused_s = max(suspicion.excused_s, heard - suspicion.started_at)
            suspicion.last_call = False
            self._arm(suspicion)
            self.detector.ping(member)  # it perhaps does not know: this tells it
            return
        if self._due_at(suspicion) > context.now:
            self._arm(suspicion)
            return
        silence = context.now - self._last_heard
        if self._doubts_itself and config.deaf_s < silence < config.deaf_verdict_s:
            context.set_timer(SuspicionDue(node), config.probe_timeout_s)
            return
        if config.last_call_s and not suspicion.last_call and member is not None:
            suspicion.last_call = True
            self.detector.ping(member)
            context.set_timer(SuspicionDue(node), config.last_call_s)
            return
        self._declare_down(suspicion, refused=False)

    # --- watching ---------------------------------------------------------------------------

    def rewatch(self) -> None:
        """Keep connections to those who follow us on the ring now, and to nobody else."""
        context = self._context
        members = context.members
        wanted: dict[NodeId, Address] = {}
        if not self.leaving:
            for node in members.neighbours(members.own.node, context.config.watchers, step=1):
                member = members.get(node)
                if member is not None:
                    wanted[node] = member.address
        for node, address in list(self._watched.items()):
            if wanted.get(node) != address:
                self._unwatch(node)
        for node, address in wanted.items():
            if node not in self._watched:
                self._watched[node] = address
                context.emit(Watch(node, address))

    def _unwatch(self, node: NodeId) -> None:
        if self._watched.pop(node, None) is not None:
            self._context.emit(Unwatch(node))

    def watches(self, node: NodeId) -> bool:
        """Whether it is ours to look after a member."""
        return node in self._watched

    # --- our own state ----------------------------------------------------------------------

    def leave(self) -> NewsItem:
        """Say goodbye. Returns the news of it."""
        context = self._context
        own = context.members.own
        self.leaving = True
        left = Left(own.node, own.generation, own.incarnation + 1)
        self._change(
            replace(own, incarnation=own.incarnation + 1, status=Status.LEFT), reason="leaving"
        )
        item = context.codec.encode_news(left)
        self._tell(left, item, None, eager=True)
        return item

    def refute(self, generation: int, incarnation: int) -> None:
        """Somebody says we are not well: we are, in a larger incarnation. SWIM §4.2."""
        context = self._context
        own = context.members.own
        if self.leaving or (generation, incarnation) < (own.generation, own.incarnation):
            return
        if generation > COUNT_CREDIBLE_MAX:
            context.counters["incredible_claims"] += 1
            return
        context.counters["refutations"] += 1
        self.detector.worsen_health()
        # A generation above ours is one that we have forgotten (the clock went back): go past it.
        past = generation + 1 if generation > own.generation else own.generation
        if incarnation >= COUNT_CREDIBLE_MAX:  # no room above it: a new generation has some
            past, incarnation = generation + 1, 0
        self._renew(replace(own, generation=past, incarnation=incarnation + 1), reason="refuted")

    def move_to(self, address: Address) -> None:
        """We are reached at another address from now on."""
        own = self._context.members.own
        if self.leaving:  # or we would bring ourselves back to life
            return
        self._renew(replace(own, address=address, incarnation=own.incarnation + 1), reason="moved")

    def _on_alive_of_ourselves(self, alive: Alive, address: Address) -> None:
        context = self._context
        own = context.members.own
        if (alive.generation, alive.incarnation) < (own.generation, own.incarnation):
            return
        if address != own.address:
            if context.now - self._conflict_at >= CONFLICT_INTERVAL_S:
                self._conflict_at = context.now
                context.counters["identity_conflicts"] += 1
                context.emit(IdentityConflict(address))
        elif (alive.generation, alive.incarnation) > (own.generation, own.incarnation):
            self.refute(alive.generation, alive.incarnation)

    def _renew(self, own: Member, *, reason: str) -> None:
        self._change(own, reason=reason)
        alive = Alive.of(own)
        self._tell(alive, self._context.codec.encode_news(alive), None, eager=True)

    # --- inside -----------------------------------------------------------------------------

    def _on_down(self, down: Down, item: NewsItem, heard_from: NodeId) -> None:
        context = self._context
        if down.node == context.members.own.node:
            self.refute(down.generation, down.incarnation)
            return
        known = context.members.get(down.node)
        if known is None or known.precedence >= (down.generation, down.incarnation, Status.DOWN):
            self._echo(down, heard_from)
            return
        if context.config.direct_evidence and not down.refused and self._doubts(known, down):
            suspect = Suspect(down.node, down.generation, down.incarnation, down.by)
            self.on_suspect(suspect, context.codec.encode_news(suspect), heard_from)
            return
        reason = "its host refuses connections" if down.refused else "no answer"
        self._change(
            replace(
                known,
                generation=down.generation,
                incarnation=down.incarnation,
                status=Status.DOWN,
            ),
            reason=reason,
        )
        self._tell(down, item, heard_from, eager=True)

    def _doubts(self, known: Member, down: Down) -> bool:
        """Whether a verdict is one that we would not have come to: we hear the member, or it has
        had no time to refute, for the judge may come out of another part of a split network."""
        now = self._context.now
        heard = self._heard_at.get(down.node)
        if heard is not None and now - heard < HEARD_LATELY_S:
            return True
        if known.precedence != (down.generation, down.incarnation, Status.SUSPECT):
            return known.status.online
        suspicion = self._suspicions[down.node]
        return now - suspicion.started_at < suspicion.minimum_s * TIME_TO_REFUTE_SHARE

    def _on_left(self, left: Left, item: NewsItem, heard_from: NodeId) -> None:
        known = self._context.members.get(left.node)
        if left.node == self._context.members.own.node:
            if not self.leaving:
                self.refute(left.generation, left.incarnation)
            return
        if known is None or known.precedence >= (left.generation, left.incarnation, Status.LEFT):
            self._echo(left, heard_from)
            return
        self._change(
            replace(
                known,
                generation=left.generation,
                incarnation=left.incarnation,
                status=Status.LEFT,
            ),
            reason="left",
        )
        self._tell(left, item, heard_from, eager=True)

    def _on_sync_offline(self, fact: SyncMember, status: Status) -> None:
        if fact.age_s >= self._context.config.forget_s:
            return
        address = fact.address
        member = Member(fact.node, fact.name, address, fact.generation, fact.incarnation, status)
        known = self._context.members.get(fact.node)
        if known is None or known.precedence < member.precedence:
            self._change(member, reason="told by a peer", offline_for_s=fact.age_s)

    def _begin_suspicion(self, known: Member, suspect: Suspect) -> Suspicion:
        context, config = self._context, self._context.config
        online = max(1, context.members.online_count)  # 0 once we have left a cluster of one
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
        self._change(
            replace(
                known,
                generation=suspect.generation,
                incarnation=suspect.incarnation,
                status=Status.SUSPECT,
            ),
            reason="its host refuses connections" if suspect.refused else "no answer",
        )
        self._dissemination.stop(suspect.node)
        self._suspicions[suspect.node] = suspicion
        context.counters["suspicions"] += 1
        return suspicion

    def _tell_suspect(self, suspicion: Suspicion, item: NewsItem) -> None:
        """The one who can refute is told first, by who begins and by who looks after it."""
        if not self._context.config.confirm_at_once:
            return
        first = self._context.members.own.node in suspicion.accusers or self.watches(suspicion.node)
        if first and len(suspicion.accusers) == 1:
            self._dissemination.push_to([suspicion.node], [item])

    def _confirm(self, suspicion: Suspicion, *, refused: bool) -> None:
        """Who looks after the suspect tries it at once, so that a crash is confirmed soon."""
        own = self._context.members.own.node
        if own in (suspicion.refused if refused else suspicion.accusers):
            return
        members, config = self._context.members, self._context.config
        member = members.get(suspicion.node)
        if member is None or not config.confirm_at_once:
            return
        if own not in members.neighbours(suspicion.node, config.confirmers, step=-1):
            return
        if refused:
            self.detector.stream_probe(member, -1, timeout_s=STREAM_CHECK_S)
        self.detector.probe_now(suspicion.node)

    def _refused_enough(self, suspicion: Suspicion) -> bool:
        """Whether as many were refused as there can be, up to the number that is needed."""
        refusals = len(suspicion.refused)
        if not refusals or refusals >= self._context.config.refusals_needed:
            return refusals > 0
        own = self._context.members.own.node
        witnesses = 0
        for node in self._context.members.ring():
            if node in (own, suspicion.node):
                continue
            if node not in self._suspicions or own not in self._suspicions[node].refused:
                witnesses += 1
            if witnesses >= refusals:  # there is one more who could tell, and has not
                return False
        return True

    def _arm(self, suspicion: Suspicion) -> None:
        wait = self._due_at(suspicion) - self._context.now
        self._context.set_timer(SuspicionDue(suspicion.node), max(wait, 0.0))

    def _due_at(self, suspicion: Suspicion) -> float:
        """When to act on a suspicion next: the last call, then the verdict."""
        lead_s = 0.0 if suspicion.last_call else self._context.config.last_call_s
        return suspicion.deadline - lead_s

    def _declare_down(self, suspicion: Suspicion, *, refused: bool) -> None:
        members = self._context.members
        known = members.get(suspicion.node)
        if known is None or self.leaving:
            return
        down = Down(
            suspicion.node,
            suspicion.generation,
            suspicion.incarnation,
            members.own.node,
            refused,
        )
        self._context.counters["verdicts"] += 1
        self._change(
            replace(known, status=Status.DOWN),
            reason="its host refuses connections" if refused else "no answer",
        )
        self._tell(down, self._context.codec.encode_news(down), None, eager=True)
        for other in list(self._suspicions.values()):  # one witness less: others may be due
            if self._refused_enough(other):
                self._declare_down(other, refused=True)

    def _change(self, member: Member, *, reason: str = "", offline_for_s: float = 0.0) -> None:
        """Take over a newer fact, with all that follows from it."""
        context = self._context
        known = context.members.get(member.node)
        previous = known.status if known is not None else None
        if known is None and self.recall(member.node) is not None:
            previous = Status.DOWN
        if not context.members.put(member, now=context.now, offline_for_s=offline_for_s):
            return
        if member.status != Status.SUSPECT and member.node in self._suspicions:
            del self._suspicions[member.node]
            context.cancel_timer(SuspicionDue(member.node))
        if not member.status.online:
            self.detector.give_up(member.node)
            self._heard_at.pop(member.node, None)
            self._reached_by_tcp.discard(member.node)
            forget = context.config.forget_s - offline_for_s
            context.set_timer(ReapDue(member.node), max(forget, 0.0))
            self._unwatch(member.node)
        else:
            context.cancel_timer(ReapDue(member.node))
        came_or_went = previous is None or previous.online != member.status.online
        moved = known is not None and known.address != member.address
        if came_or_went or moved:
            context.set_timer(RewatchDue(), REWATCH_S)
        context.emit(MemberChanged(member, previous, reason))

    def forget(self, node: NodeId) -> bool:
        """Reap a member that has been offline for long. Returns whether it was."""
        if self._context.members.offline_since(node) is None:
            return False
        self._context.members.forget(node)
        self._dissemination.stop(node)
        self._heard_at.pop(node, None)  # it may have spoken to us since it was down
        self._reached_by_tcp.discard(node)
        self._context.emit(MemberForgotten(node))
        return True

    def _tell(
        self, news: MemberNews, item: NewsItem, heard_from: NodeId | None, *, eager: bool
    ) -> None:
        self._dissemination.tell(
            _key(news), item, subject=news.node, heard_from=heard_from, eager=eager
        )

    def _echo(self, news: MemberNews, heard_from: NodeId | None) -> None:
        if heard_from is not None:
            self._dissemination.echo(_key(news), heard_from)


def _key(news: MemberNews) -> tuple[object, ...]:
    """What makes two pieces of news the same."""
    life = (news.node, news.generation, news.incarnation)
    match news:
        case Alive():
            return ("alive", *life)
        case Suspect(by=by, refused=refused):
            return ("suspect", *life, by, refused)
        case Down(refused=refused):
            return ("down", *life, refused)
        case Left():
            return ("left", *life)
