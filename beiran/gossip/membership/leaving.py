"""The leave broadcast: this node announces that it leaves, and repeats it until it is acknowledged.

``Left`` spreads as all news does. In addition this node pings the members that watch it, and
``fanout`` random ones, with ``Left`` until they acknowledge. A member that missed the news would
take the closed connections for a crash.
"""

from typing import Final

from beiran.gossip.context import Context
from beiran.gossip.membership.failure_detector import FailureDetector
from beiran.gossip.membership.own_member import OwnMember
from beiran.gossip.membership.ring_watch import RingWatch
from beiran.gossip.messages import NewsItem
from beiran.gossip.timers import LeaveRepeatDue
from beiran.ids import NodeId

LEAVE_REPEAT_S: Final = 0.1  # above a LAN's round trip; all tries end within the driver's second
LEAVE_TRIES: Final = 4  # at a loss of 20 % one member in 600 misses all of them


class LeaveBroadcast:
    """Announces that this node leaves."""

    def __init__(
        self, context: Context, detector: FailureDetector, own: OwnMember, watches: RingWatch
    ) -> None:
        self._context = context
        self._detector = detector
        self._own = own
        self._watches = watches
        self._tries_left: dict[NodeId, int] = {}
        self.item: NewsItem | None = None
        """The piece of news, once this node leaves."""

    @property
    def acknowledged(self) -> bool:
        """Whether every member that was asked has acknowledged, or was asked often enough."""
        return not self._tries_left

    def begin(self) -> None:
        """Leave."""
        members, config = self._context.members, self._context.config
        own = members.own.node
        receivers = members.neighbours(own, config.watchers, step=-1) + members.some(config.fanout)
        self.item = self._own.leave()
        self._watches.update()
        self._tries_left = {node: LEAVE_TRIES for node in receivers if node != own}
        self.repeat()

    def repeat(self) -> None:
        """Ping the members that have not acknowledged."""
        for node, tries in list(self._tries_left.items()):
            member = self._context.members.get(node)
            if tries == 0 or member is None or self.item is None:
                del self._tries_left[node]
                continue
            self._tries_left[node] = tries - 1
            self._detector.ping_with(member, self.item)
        if self._tries_left:
            self._context.set_timer(LeaveRepeatDue(), LEAVE_REPEAT_S)

    def on_ack(self, node: NodeId) -> None:
        """A member has acknowledged a ping, and so the news in it."""
        self._tries_left.pop(node, None)
