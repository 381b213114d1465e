"""Apply the facts about members that arrive: by gossip, in a beacon, or in a push-pull.

``merge_rule`` gives the ruling on each fact. This module carries it out and spreads new facts.
``GossipNode`` and ``push_pull`` call it.
"""

from msgspec.structs import replace

from beiran.gossip.context import Context
from beiran.gossip.dissemination import Dissemination
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.membership.member_changes import MemberChanges
from beiran.gossip.membership.merge_rule import GOSSIP, PUSH_PULL, Ruling, rule
from beiran.gossip.membership.own_member import OwnMember
from beiran.gossip.membership.suspicion_protocol import SuspicionProtocol
from beiran.gossip.messages import Alive, Down, Left, MemberNews, NewsItem, Suspect, SyncMember
from beiran.ids import NodeId


class MemberUpdates:
    """Merges facts about members."""

    def __init__(
        self,
        context: Context,
        dissemination: Dissemination,
        changes: MemberChanges,
        own: OwnMember,
        suspicion: SuspicionProtocol,
    ) -> None:
        self._context = context
        self._dissemination = dissemination
        self._changes = changes
        self._own = own
        self._suspicion = suspicion

    def on_news(self, news: MemberNews, item: NewsItem, heard_from: NodeId) -> None:
        """A fact has come by gossip. ``item``: as it came."""
        if news.node == self._context.members.own.node:
            self._own.on_claim(news)
            return
        match news:
            case Alive():
                self._on_alive(news, item, heard_from, eager=True)
            case Suspect():
                self._suspicion.on_suspect(news, item, heard_from)
            case Down():
                self._on_down(news, item, heard_from)
            case Left():
                self._on_left(news, item, heard_from)

    def on_alive_itself(self, alive: Alive) -> None:
        """A member has announced itself, to all of a LAN or over TCP. It is not pushed on."""
        if alive.node == self._context.members.own.node:
            self._own.on_claim(alive)
        else:
            self._on_alive(alive, None, alive.node, eager=False)

    def on_sync_member(self, fact: SyncMember, heard_from: NodeId, *, spread: bool) -> None:
        """A fact has come in a push-pull. ``spread``: pass it on if it is new."""
        status = Status(fact.status)
        alive = Alive(fact.node, fact.generation, fact.incarnation, fact.host, fact.port, fact.name)
        if fact.node == self._context.members.own.node:
            if status == Status.ALIVE:
                self._own.on_claim(alive)
            else:
                self._own.refute(fact.generation, fact.incarnation)
            return
        known = self._context.members.get(fact.node)
        ruling = rule(PUSH_PULL, known, (fact.generation, fact.incarnation), status)
        if status.online:
            self._learn_alive(alive, heard_from, spread=spread)
        if status == Status.SUSPECT or ruling is Ruling.ACCUSE:
            suspect = Suspect(fact.node, fact.generation, fact.incarnation, heard_from)
            self._suspicion.on_suspect(suspect, None, heard_from)
        elif ruling is Ruling.TAKE and not status.online and self._is_recent(fact):
            member = _member(alive, status)
            self._changes.change(member, reason="reported by a peer", offline_for_s=fact.age_s)

    def _is_recent(self, fact: SyncMember) -> bool:
        return fact.age_s < self._context.config.forget_s

    # --- one kind each ----------------------------------------------------------------------

    def _on_alive(
        self, alive: Alive, item: NewsItem | None, heard_from: NodeId, *, eager: bool
    ) -> None:
        if self._take_alive(alive, heard_from):
            self._dissemination.spread(alive, item, heard_from=heard_from, eager=eager)

    def _learn_alive(self, alive: Alive, heard_from: NodeId, *, spread: bool) -> None:
        if self._take_alive(alive, heard_from) and spread:
            self._dissemination.spread(alive, heard_from=heard_from)

    def _take_alive(self, alive: Alive, heard_from: NodeId) -> bool:
        known = self._context.members.get(alive.node)
        life = (alive.generation, alive.incarnation)
        if rule(GOSSIP, known, life, Status.ALIVE) is Ruling.IGNORE:
            self._dissemination.on_echo(alive, heard_from)
            return False
        self._changes.change(_member(alive, Status.ALIVE))
        return True

    def _on_down(self, down: Down, item: NewsItem, heard_from: NodeId) -> None:
        known = self._context.members.get(down.node)
        life = (down.generation, down.incarnation)
        if known is None or rule(GOSSIP, known, life, Status.DOWN) is Ruling.IGNORE:
            self._dissemination.on_echo(down, heard_from)
            return
        if self._suspicion.speaks_against(known, down):
            suspect = Suspect(down.node, down.generation, down.incarnation, down.by)
            self._suspicion.on_suspect(suspect, None, heard_from)
            return
        reason = "its host refuses connections" if down.refused else "no answer"
        self._end(known, down, Status.DOWN, reason)
        self._dissemination.spread(down, item, heard_from=heard_from)

    def _on_left(self, left: Left, item: NewsItem, heard_from: NodeId) -> None:
        known = self._context.members.get(left.node)
        life = (left.generation, left.incarnation)
        if known is None or rule(GOSSIP, known, life, Status.LEFT) is Ruling.IGNORE:
            self._dissemination.on_echo(left, heard_from)
            return
        self._end(known, left, Status.LEFT, "left")
        self._dissemination.spread(left, item, heard_from=heard_from)

    def _end(self, known: Member, news: Down | Left, status: Status, reason: str) -> None:
        ended = replace(
            known, generation=news.generation, incarnation=news.incarnation, status=status
        )
        self._changes.change(ended, reason=reason)


def _member(alive: Alive, status: Status) -> Member:
    """What an announcement says of a member, with this status."""
    return Member(
        alive.node, alive.name, alive.address, alive.generation, alive.incarnation, status
    )
