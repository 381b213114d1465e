"""Fetch ``/info`` from each member when it joins or restarts, and write it into the store.

Gossip carries membership and holdings only. The release and the engine of a node change when it
restarts, so one request for each generation is enough.
"""

import logging
from collections.abc import Sequence
from typing import Final

import trio

from beiran.agent.store_writer import StoreWriter
from beiran.api.models import Info
from beiran.errors import RemoteProtocolError
from beiran.gossip.effects import Effect, MemberChanged, MemberForgotten
from beiran.gossip.membership.member import Member
from beiran.gossip.node import GossipNode
from beiran.ids import NodeId, node_id_text
from beiran.peers.peer_client import PeerClient, PeerRefused, PeerUnreachable

AT_ONCE: Final = 4  # so that 1,000 members that join at once do not open 1,000 connections
# Chosen, not measured: a member that does not answer costs one connection a minute in the end.
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
TIMEOUT_S: Final = 5.0  # as the requests of gossip over TCP (``request_timeout_s``)
DELAY_S_PER_MEMBER: Final = 0.002  # so that 1,000 members ask a newcomer over 2 s, not at once

_log: Final = logging.getLogger(__name__)


class PeerInfo:
    """Keeps the ``/info`` of each member up to date in the store.

    Args:
      nursery: runs the requests.
    """

    def __init__(
        self, node: GossipNode, peers: PeerClient, writer: StoreWriter, nursery: trio.Nursery
    ) -> None:
        self._node: Final = node
        self._peers: Final = peers
        self._writer: Final = writer
        self._nursery: Final = nursery
        self._asked: dict[NodeId, int] = {}  # the generation whose /info was requested
        self._limiter: Final = trio.CapacityLimiter(AT_ONCE)

    def on_effects(self, effects: Sequence[Effect]) -> None:
        """Request ``/info`` of each member that is online in a new generation."""
        for effect in effects:
            if isinstance(effect, MemberForgotten):
                self._asked.pop(effect.node, None)
            if not isinstance(effect, MemberChanged) or not effect.member.status.online:
                continue
            member = effect.member
            if member.node == self._node.own.node:
                continue
            if self._asked.get(member.node) != member.generation:
                self._asked[member.node] = member.generation
                self._nursery.start_soon(self._ask, member)

    async def _ask(self, member: Member) -> None:
        """Request until there is an answer, or the member has left or restarted."""
        wait_s = DELAY_S_PER_MEMBER * len(self._node.members)
        while self._is_current(member):
            await trio.sleep(wait_s * delay_share(self._node.own.node, member.node))
            async with self._limiter:
                info = await self._info_of(member)
            if info is not None and await self._writer.record_info(member.node, info):
                return
            wait_s = min(max(2 * wait_s, RETRY_MIN_S), RETRY_MAX_S)
        if self._asked.get(member.node) == member.generation:
            del self._asked[member.node]

    def _is_current(self, member: Member) -> bool:
        known = self._node.members.get(member.node)
        return known is not None and known.status.online and known.generation == member.generation

    async def _info_of(self, member: Member) -> Info | None:
        try:
            info = await self._peers.get_json(member.address, "/info", Info, timeout_s=TIMEOUT_S)
        except (PeerRefused, PeerUnreachable, RemoteProtocolError, OSError) as error:
            _log.debug("GET /info from %s: %s", member.name, error)
            return None
        return info if info.uuid == node_id_text(member.node) else None


def delay_share(own: NodeId, member: NodeId) -> float:
    """How much of the delay ``own`` waits before it asks ``member``, 1/256 to 1.

    The UUIDs of both decide, so that the requests of all nodes to one member spread out, and the
    requests of one node to all members too.
    """
    return ((own[0] ^ member[0]) + 1) / 256
