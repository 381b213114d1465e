"""Connection watches: an idle TCP connection to each of the next members on the ring.

A kernel closes the connections of a process that dies, and refuses new ones. So the members that
watch it learn of a crash at once, where probing needs a second. ``GossipConfig.watchers`` members
watch each one. The driver opens the connections (``beiran.peers.connection_watch``); the watched
agent accepts up to ``WATCHERS_MAX`` of them (``beiran.http.server``).
"""

from typing import Final

from beiran.gossip.context import Context
from beiran.gossip.effects import Unwatch, Watch
from beiran.gossip.membership.member import Address
from beiran.gossip.timers import RewatchDue
from beiran.ids import NodeId

REWATCH_S: Final = 0.2
"""Members often come or go many at a time: connections follow once that has settled. Shorter
opens connections that are closed again at once; chosen, not measured."""


class RingWatch:
    """Which members this node watches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watched: dict[NodeId, Address] = {}

    def __contains__(self, node: NodeId) -> bool:
        return node in self._watched

    def plan_update(self) -> None:
        """The ring changes: look after ``REWATCH_S`` which members follow this node on it."""
        self._context.set_timer(RewatchDue(), REWATCH_S)

    def update(self) -> None:
        """Watch the members that follow this node on the ring, at their addresses, and no other."""
        context = self._context
        members = context.members
        wanted: dict[NodeId, Address] = {}
        if not context.leaving:
            for node in members.neighbours(members.own.node, context.config.watchers, step=1):
                member = members.get(node)
                if member is not None:
                    wanted[node] = member.address
        for node, address in list(self._watched.items()):
            if wanted.get(node) != address:
                self.end(node)
        for node, address in wanted.items():
            if node not in self._watched:
                self._watched[node] = address
                context.emit(Watch(node, address))

    def end(self, node: NodeId) -> None:
        """Stop watching a member, if it is watched."""
        if self._watched.pop(node, None) is not None:
            self._context.emit(Unwatch(node))
