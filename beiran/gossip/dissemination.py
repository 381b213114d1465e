"""News travels at once, and stops as soon as everybody has it.

What a node hears for the first time it passes on in the same instant: to its two neighbours on the
ring of members and, half of it, to one at random (RingCast: Voulgaris and van Steen, Middleware
2007). The ring alone reaches everybody where nothing is lost, the random links make it fast; what
was lost is repaired by a second round for news that came back from too few, by telling whoever's
ping or ack shows another picture, and by anti-entropy. So the feedback that ends it is the hash of
pictures: whose hash is ours knows all that we could tell. Suspicions are in no picture. They ride
on pings and acks up to a limit, and hearing them again ends their life early.
"""

from collections.abc import Hashable, Sequence

from msgspec import Struct

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.context import Context
from beiran.gossip.membership.member import Member
from beiran.gossip.messages import Gossip, NewsItem
from beiran.gossip.timers import GossipTickDue, SecondPushDue
from beiran.ids import NodeId
from beiran.sansio.wire import packed_bytes

RUMOURS_MAX = 1024
NEWS_BYTES_MAX = DATAGRAM_BYTES_MAX - 80  # a PingReq for an IPv6 address takes 74 of its own

RumourKey = tuple[Hashable, ...]


class Rumour(Struct):
    """A piece of news that is still being told.

    Attributes:
      subject: whom it is about; a newer fact of the same subject ends it.
      heard_from: who told us, the first first; ourselves not counted.
      copies: how often we have sent it.
      told_at: when we began to tell it.
      in_picture: whose picture has our hash knows it.
    """

    key: RumourKey
    item: NewsItem
    size_bytes: int
    subject: Hashable
    heard_from: list[NodeId]
    told_at: float
    in_picture: bool
    copies: int = 0
    pushed: int = 0
    eager: bool = True


class Dissemination:
    """What this node is telling others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rumours: dict[RumourKey, Rumour] = {}
        self._by_subject: dict[Hashable, list[RumourKey]] = {}
        self._fresh: list[Rumour] = []

    def __len__(self) -> int:
        return len(self._rumours)

    def tell(
        self,
        key: RumourKey,
        item: NewsItem,
        *,
        subject: Hashable = None,
        heard_from: NodeId | None = None,
        eager: bool = True,
        in_picture: bool = True,
    ) -> None:
        """Spread a piece of news that is new to us.

        Args:
          subject: if given, what was told of it before is no longer told.
          eager: push it at once; otherwise it is only told to whom it is found to lack.
          in_picture: it changes the picture of whoever learns it.
        """
        if subject is not None:
            self.stop(subject)
        self._drop_old()
        if len(self._rumours) >= RUMOURS_MAX:
            self._drop(max(self._rumours.values(), key=lambda rumour: rumour.copies))
        sources = [heard_from] if heard_from else []
        by_picture = in_picture and self._context.config.by_picture
        rumour = Rumour(
            key,
            item,
            packed_bytes(item),
            subject,
            sources,
            self._context.now,
            by_picture,
            eager=eager,
        )
        self._rumours[key] = rumour
        if subject is not None:
            self._by_subject.setdefault(subject, []).append(key)
        if eager:
            self._fresh.append(rumour)

    def also(
        self, key: RumourKey, item: NewsItem, *, subject: Hashable, heard_from: NodeId | None
    ) -> None:
        """Spread news that adds to what is told of its subject, and does not replace it."""
        others = self._by_subject.pop(subject, [])
        self.tell(key, item, subject=subject, heard_from=heard_from, in_picture=False)
        self._by_subject[subject] = others + self._by_subject[subject]

    def echo(self, key: RumourKey, heard_from: NodeId) -> None:
        """Somebody told us what we knew: one less who must be told."""
        rumour = self._rumours.get(key)
        if rumour is None or heard_from in rumour.heard_from:
            return
        rumour.heard_from.append(heard_from)
        enough = len(rumour.heard_from) >= self._context.config.enough_echoes
        if enough and rumour.pushed and not rumour.in_picture:
            self._drop(rumour)

    def stop(self, subject: Hashable) -> None:
        """No longer tell anything about ``subject``."""
        for key in self._by_subject.pop(subject, []):
            self._rumours.pop(key, None)

    def piggyback(
        self, *, picture: int | None = None, first: Sequence[NewsItem] = ()
    ) -> tuple[NewsItem, ...]:
        """What fits into a message that is sent anyway: ``first``, then the least told.

        Args:
          picture: the hash of the receiver's, if we know it.
        """
        news = list(first)
        if not self._rumours:
            return tuple(news)
        self._drop_old()
        lacks = picture is not None and picture != self._context.members.picture
        fit = [rumour for rumour in self._rumours.values() if lacks or not rumour.in_picture]
        if not fit:
            return tuple(news)
        room = NEWS_BYTES_MAX - sum(map(packed_bytes, news))
        limit = self._context.config.copies_max(self._context.members.online_count)
        spent: list[Rumour] = []
        for rumour in sorted(fit, key=lambda rumour: rumour.copies):
            if rumour.size_bytes > room:
                continue
            room -= rumour.size_bytes
            news.append(rumour.item)
            rumour.copies += 1
            if rumour.copies >= limit:
                spent.append(rumour)
        for rumour in spent:
            self._drop(rumour)
        return tuple(news)

    def flush(self) -> None:
        """Push what is fresh. Called at the end of every input."""
        if not self._fresh:
            return
        fresh = [rumour for rumour in self._fresh if self._rumours.get(rumour.key) is rumour]
        self._fresh = []
        if self._context.config.push_tick_s:
            self._plan_tick()
            return
        by_source: dict[NodeId | None, list[Rumour]] = {}
        for rumour in fresh:
            source = rumour.heard_from[0] if rumour.heard_from else None
            by_source.setdefault(source, []).append(rumour)
        for source, rumours in by_source.items():
            self._push(rumours, self._first_hearers(source))
        if fresh and self._context.timers.deadline(SecondPushDue()) is None:
            self._context.set_timer(SecondPushDue(), self._context.config.push_again_s)

    def push_again(self) -> None:
        """The second round: for what is ours and came back from nobody; where packets get lost,
        for all that came back from few, and to those from whom it has not."""
        config = self._context.config
        lossy = self._packets_get_lost
        young = [rumour for rumour in self._rumours.values() if rumour.eager and rumour.pushed < 2]
        for rumour in young:
            rumour.pushed = 2
            enough = config.enough_echoes if lossy and rumour.in_picture else 1
            if len(rumour.heard_from) < enough:
                source = rumour.heard_from[0] if rumour.heard_from else None
                hearers = [n for n in self._first_hearers(source) if n not in rumour.heard_from]
                self._push([rumour], hearers)

    def push_tick(self) -> None:
        """memberlist's way, for comparisons: at each tick, what there is to tell, to a few."""
        members = self._context.members
        for node in members.some(self._context.config.fanout):
            member = members.get(node)
            news = self.piggyback()
            if member is not None and news:
                self._context.send(member.address, Gossip(members.own.node, news))
        self._plan_tick()

    def _plan_tick(self) -> None:
        if self._rumours and self._context.timers.deadline(GossipTickDue()) is None:
            self._context.set_timer(GossipTickDue(), self._context.config.push_tick_s)

    def catch_up(self, member: Member, picture: int) -> None:
        """A member has shown its picture in an ack: tell it what is new, if that is another."""
        if self._rumours and picture != self._context.members.picture:
            news = self.piggyback(picture=picture)
            if news:
                self._context.send(member.address, Gossip(self._context.members.own.node, news))

    def push_to(self, nodes: Sequence[NodeId], items: Sequence[NewsItem]) -> None:
        """Tell some members some news, whatever is being told otherwise."""
        members = self._context.members
        addresses = [member.address for node in nodes if (member := members.get(node))]
        for chunk in _chunks(items):
            self._context.send_to_all(addresses, Gossip(members.own.node, tuple(chunk)))

    def _first_hearers(self, source: NodeId | None) -> list[NodeId]:
        members, fanout = self._context.members, self._context.config.fanout
        own = members.own.node
        ring = members.neighbours(own, 1, step=1) + members.neighbours(own, 1, step=-1)
        chosen = list(dict.fromkeys(node for node in ring[:fanout] if node != source))
        without = frozenset([*chosen, own, *([source] if source else [])])
        far = fanout - len(ring[:fanout])
        if source is not None and not self._packets_get_lost and not self._goes_far():
            far = 0
        return chosen + members.some(far, without=without)

    def _goes_far(self) -> bool:
        return self._context.random.random() < self._context.config.far_share

    @property
    def _packets_get_lost(self) -> bool:
        return self._context.now - self._context.lost_at < self._context.config.lossy_s

    def _push(self, rumours: Sequence[Rumour], hearers: Sequence[NodeId]) -> None:
        for rumour in rumours:
            rumour.copies += len(hearers)
            rumour.pushed += 1
        self.push_to(hearers, [rumour.item for rumour in rumours])

    def _drop_old(self) -> None:
        """Forget what was to be told by picture and is no longer news. The oldest come first."""
        oldest = self._context.now - self._context.config.news_lasts_s
        old = []
        for rumour in self._rumours.values():
            if rumour.told_at > oldest:
                break
            if rumour.in_picture:
                old.append(rumour)
        for rumour in old:
            self._drop(rumour)

    def _drop(self, rumour: Rumour) -> None:
        self._rumours.pop(rumour.key, None)
        if rumour.subject is not None:
            keys = self._by_subject.get(rumour.subject, [])
            if rumour.key in keys:
                keys.remove(rumour.key)
            if not keys:
                self._by_subject.pop(rumour.subject, None)


def _chunks(items: Sequence[NewsItem]) -> list[list[NewsItem]]:
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
