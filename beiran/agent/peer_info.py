"""Asks every agent that shows itself for its ``/info``: gossip carries what changes, not this."""

import logging
from typing import Final

import trio

from beiran.agent.store_writer import Recorder
from beiran.api.models import Info
from beiran.errors import RemoteProtocolError
from beiran.gossip.effects import Effect, MemberChanged, MemberForgotten
from beiran.gossip.membership.member import Member
from beiran.gossip.node import GossipNode
from beiran.ids import NodeId, node_id_text
from beiran.peers.peer_client import PeerClient, PeerRefused, PeerUnreachable

AT_ONCE: Final = 4
TRY_AGAIN_S: Final = 1.0
TRY_AGAIN_MAX_S: Final = 60.0
TIMEOUT_S: Final = 5.0
PATIENCE_S_A_MEMBER: Final = 0.002  # so that a thousand do not ask a newcomer in one instant

_log: Final = logging.getLogger(__name__)


class Acquaintance:
    """Keeps what the nodes tell of themselves up to date in the store."""

    def __init__(self, node: GossipNode, peers: PeerClient, recorder: Recorder) -> None:
        self._node: Final = node
        self._peers: Final = peers
        self._recorder: Final = recorder
        self._asked: dict[NodeId, int] = {}
        self._limiter: Final = trio.CapacityLimiter(AT_ONCE)
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask whoever is to be asked, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def notice(self, effects: list[Effect]) -> None:
        """Somebody may have shown itself."""
        for effect in effects:
            if isinstance(effect, MemberForgotten):
                self._asked.pop(effect.node, None)
            if not isinstance(effect, MemberChanged) or not effect.member.status.online:
                continue
            member = effect.member
            if member.node == self._node.own.node:
                continue
            if self._asked.get(member.node) != member.generation and self._nursery is not None:
                self._asked[member.node] = member.generation
                self._nursery.start_soon(self._ask, member)

    async def _ask(self, member: Member) -> None:
        """Ask until there is an answer, or nobody there to give one."""
        wait_s = PATIENCE_S_A_MEMBER * len(self._node.members)
        while self._is_current(member):
            await trio.sleep(wait_s * (member.node[0] + 1) / 256)
            async with self._limiter:
                info = await self._info_of(member)
            if info is not None and await self._recorder.record_info(member.node, info):
                return
            wait_s = min(max(2 * wait_s, TRY_AGAIN_S), TRY_AGAIN_MAX_S)
        if self._asked.get(member.node) == member.generation:
            del self._asked[member.node]

    def _is_current(self, member: Member) -> bool:
        known = self._node.members.get(member.node)
        return known is not None and known.status.online and known.generation == member.generation

    async def _info_of(self, member: Member) -> Info | None:
        try:
            info = await self._peers.get_json(member.address, "/info", Info, timeout_s=TIMEOUT_S)
        except (PeerRefused, PeerUnreachable, RemoteProtocolError, OSError) as error:
            _log.debug("asking %s for /info: %s", member.name, error)
            return None
        return info if info.uuid == node_id_text(member.node) else None
