"""News travels at once, and stops as soon as every member has it.

The theory. An *update* is a piece of news that this node still spreads. A node passes on what is
new to it in the same instant: to its two neighbours on the ring of members and, half of it, to one
member at random (RingCast: Voulgaris and van Steen, Middleware 2007). The ring alone reaches every
member where nothing is lost; the random links make it fast. What was lost is repaired in three
ways: a second push of updates that came back from too few members, by acks and ``Gossip`` to
members whose state hash differs, and by anti-entropy (``push_pull``).

The feedback that ends it is the state hash: a member with this node's hash lacks no update.
Suspicions are in no state hash. They ride on pings and acks up to a limit of copies, and an *echo*,
which is the same news from another member, ends them early.
"""

from collections.abc import Hashable, Sequence
from typing import Final

from msgspec import Struct

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.context import Context
from beiran.gossip.messages import (
    Ahead,
    Alive,
    Delta,
    Down,
    Gossip,
    Left,
    News,
    NewsItem,
    Suspect,
)
from beiran.gossip.timers import GossipTickDue, SecondPushDue
from beiran.ids import NodeId
from beiran.sansio.wire import packed_bytes

UPDATES_MAX: Final = 1024  # a bound on memory: 1.4 MB of news; the one sent most often goes first
NEWS_BYTES_MAX: Final = DATAGRAM_BYTES_MAX - 80  # a PingReq for IPv6 takes 74 bytes of its own
PUSHES_MAX: Final = 2  # of one update: what two did not bring about, repair does

UpdateKey = tuple[Hashable, ...]


class Update(Struct):
    """A piece of news that is still spread.

    Attributes:
      subject: what it is about; newer news of the same subject replaces it. None: nothing does.
      heard_from: the members that sent it to us, the first first.
      in_state: whether members with this node's state hash know it.
      copies: how often this node has sent it. pushed: in how many pushes.
      eager: pushed at once; otherwise only sent to members that are found to lack it.
    """

    key: UpdateKey
    item: NewsItem
    size_bytes: int
    subject: Hashable
    heard_from: list[NodeId]
    begun_at: float
    in_state: bool
    eager: bool
    copies: int = 0
    pushed: int = 0

    @property
    def source(self) -> NodeId | None:
        """The member that sent it first; None if it began here."""
        return self.heard_from[0] if self.heard_from else None


class Dissemination:
    """The updates that this node spreads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._updates: dict[UpdateKey, Update] = {}
        self._by_subject: dict[Hashable, list[UpdateKey]] = {}
        self._fresh: list[Update] = []

    def __len__(self) -> int:
        return len(self._updates)

    # --- what to spread ---------------------------------------------------------------------

    def spread(
        self,
        news: News,
        item: NewsItem | None = None,
        *,
        heard_from: NodeId | None = None,
        eager: bool = True,
    ) -> None:
        """Spread a piece of news that is new to this node.

        It replaces earlier news of its subject, unless it is a ``Suspect``: each accuser counts.

        Args:
          item: the news as it came, to be passed on so; None if it did not come as an item.
          heard_from: the member that sent it; None if it begins here.
          eager: push it at once; otherwise send it only to members that are found to lack it.
        """
        key, subject = _key_and_subject(news)
        adds = isinstance(news, Suspect)
        if subject is not None and not adds:
            self.stop(subject)
        self._drop_old()
        if len(self._updates) >= UPDATES_MAX:
            self._drop(max(self._updates.values(), key=lambda update: update.copies))
        if item is None:
            item = self._context.codec.encode_news(news)
        update = Update(
            key=key,
            item=item,
            size_bytes=packed_bytes(item),
            subject=subject,
            heard_from=[heard_from] if heard_from else [],
            begun_at=self._context.now,
            in_state=not adds and self._context.config.by_state_hash,
            eager=eager,
        )
        self._updates[key] = update
        if subject is not None:
            self._by_subject.setdefault(subject, []).append(key)
        if eager:
            self._fresh.append(update)

    def on_echo(self, news: News, heard_from: NodeId | None) -> None:
        """A member sent news that this node has: that member needs no copy."""
        update = self._updates.get(_key_and_subject(news)[0])
        if heard_from is None or update is None or heard_from in update.heard_from:
            return
        update.heard_from.append(heard_from)
        enough = len(update.heard_from) >= self._context.config.enough_echoes
        if enough and update.pushed and not update.in_state:
            self._drop(update)

    def stop(self, subject: Hashable) -> None:
        """No longer spread anything about ``subject``."""
        for key in self._by_subject.pop(subject, []):
            self._updates.pop(key, None)

    # --- pushing ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Push what is fresh. Called at the end of every input."""
        if not self._fresh:
            return
        context = self._context
        fresh = [update for update in self._fresh if self._updates.get(update.key) is update]
        self._fresh = []
        if context.config.push_tick_s:
            self._plan_tick()
            return
        for source, updates in _by_source(fresh).items():
            self._push(updates, self._first_receivers(source))
        if fresh and context.timers.deadline(SecondPushDue()) is None:
            context.set_timer(SecondPushDue(), context.config.push_again_s)

    def push_again(self) -> None:
        """The second push: of this node's own updates that came back from no member. Where packets
        get lost, of all that came back from few, to the members from which they did not."""
        config = self._context.config
        lossy = self._packets_get_lost
        young = [u for u in self._updates.values() if u.eager and u.pushed < PUSHES_MAX]
        for update in young:
            update.pushed = PUSHES_MAX
            enough = config.enough_echoes if lossy and update.in_state else 1
            if len(update.heard_from) < enough:
                receivers = self._first_receivers(update.source)
                self._push([update], [n for n in receivers if n not in update.heard_from])

    def push_tick(self) -> None:
        """memberlist's way, for comparisons: at each tick, news to a few members at random."""
        members = self._context.members
        for node in members.some(self._context.config.fanout):
            member = members.get(node)
            news = self.piggyback()
            if member is not None and news:
                self._context.send(member.address, Gossip(members.own.node, news))
        self._plan_tick()

    def _plan_tick(self) -> None:
        if self._updates and self._context.timers.deadline(GossipTickDue()) is None:
            self._context.set_timer(GossipTickDue(), self._context.config.push_tick_s)

    def push_to(self, nodes: Sequence[NodeId], items: Sequence[NewsItem]) -> None:
        """Send news to some members, whatever is spread otherwise."""
        members = self._context.members
        addresses = [member.address for node in nodes if (member := members.get(node))]
        for group in _datagrams(items):
            self._context.send_to_all(addresses, Gossip(members.own.node, tuple(group)))

    def _push(self, updates: Sequence[Update], receivers: Sequence[NodeId]) -> None:
        for update in updates:
            update.copies += len(receivers)
            update.pushed += 1
        self.push_to(receivers, [update.item for update in updates])

    def _first_receivers(self, source: NodeId | None) -> list[NodeId]:
        """The ring neighbours, and perhaps random members; never the one that it came from."""
        members, config = self._context.members, self._context.config
        own = members.own.node
        ring = members.neighbours(own, 1, step=1) + members.neighbours(own, 1, step=-1)
        ring = ring[: config.fanout]
        chosen = list(dict.fromkeys(node for node in ring if node != source))
        without = frozenset([*chosen, own, *([source] if source else [])])
        far = config.fanout - len(ring)
        if source is not None and not self._packets_get_lost:
            far = far if self._context.random.random() < config.far_share else 0
        return chosen + members.some(far, without=without)

    @property
    def _packets_get_lost(self) -> bool:
        return self._context.now - self._context.lost_at < self._context.config.lossy_s

    # --- riding on other messages -----------------------------------------------------------

    def piggyback(
        self, *, state_hash: int | None = None, first: Sequence[NewsItem] = ()
    ) -> tuple[NewsItem, ...]:
        """Choose news for a message that is sent anyway: ``first``, then the least often sent.

        Args:
          state_hash: the receiver's, if it is known.
        """
        if not self._updates:
            return tuple(first)
        self._drop_old()
        lacks = state_hash is not None and state_hash != self._context.members.state_hash
        fit = [update for update in self._updates.values() if lacks or not update.in_state]
        if not fit:
            return tuple(first)
        news = list(first)
        room = NEWS_BYTES_MAX - sum(map(packed_bytes, news))
        limit = self._context.config.copies_max(self._context.members.online_count)
        for update in sorted(fit, key=lambda update: update.copies):
            if update.size_bytes > room:
                continue
            room -= update.size_bytes
            news.append(update.item)
            update.copies += 1
            if update.copies >= limit:
                self._drop(update)
        return tuple(news)

    def catch_up(self, node: NodeId, state_hash: int) -> None:
        """A member has shown its state hash in an ack: send it what is new, if that differs."""
        members = self._context.members
        member = members.get(node)
        if not self._updates or member is None or not member.status.online:
            return
        if state_hash != members.state_hash:
            news = self.piggyback(state_hash=state_hash)
            if news:
                self._context.send(member.address, Gossip(members.own.node, news))

    # --- the end of an update ---------------------------------------------------------------

    def _drop_old(self) -> None:
        """Drop updates by state hash that are no news any more. The oldest come first."""
        oldest = self._context.now - self._context.config.news_lasts_s
        old = []
        for update in self._updates.values():
            if update.begun_at > oldest:
                break
            if update.in_state:
                old.append(update)
        for update in old:
            self._drop(update)

    def _drop(self, update: Update) -> None:
        self._updates.pop(update.key, None)
        if update.subject is not None:
            keys = self._by_subject.get(update.subject, [])
            if update.key in keys:
                keys.remove(update.key)
            if not keys:
                self._by_subject.pop(update.subject, None)


def _key_and_subject(news: News) -> tuple[UpdateKey, Hashable]:
    """The key by which news is equal, and the subject by which newer news replaces older."""
    match news:
        case Alive() | Left():
            life = (news.node, news.generation, news.incarnation)
            return (type(news), *life), news.node
        case Suspect():
            life = (news.node, news.generation, news.incarnation)
            return (Suspect, *life, news.by, news.refused), news.node
        case Down():
            life = (news.node, news.generation, news.incarnation)
            return (Down, *life, news.refused), news.node
        case Delta():
            return (Delta, news.owner, news.version), None
        case Ahead():
            return (Ahead, news.owner, news.version), (Ahead, news.owner)


def _by_source(updates: Sequence[Update]) -> dict[NodeId | None, list[Update]]:
    groups: dict[NodeId | None, list[Update]] = {}
    for update in updates:
        groups.setdefault(update.source, []).append(update)
    return groups


def _datagrams(items: Sequence[NewsItem]) -> list[list[NewsItem]]:
    """``items`` in groups that each fit into a datagram."""
    groups: list[list[NewsItem]] = []
    room = 0
    for item in items:
        size = packed_bytes(item)
        if not groups or size > room:
            groups.append([])
            room = NEWS_BYTES_MAX
        groups[-1].append(item)
        room -= size
    return groups
