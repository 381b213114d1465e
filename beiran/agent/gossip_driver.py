"""The loop around the gossip core: packets and time in, effects out.

The core decides, the driver acts. trio runs one task at a time, so that the core gets its inputs
one after the other. Facts that the core reports go to the observers, in order.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, assert_never

import trio

from beiran.errors import BadRequest, RemoteProtocolError
from beiran.gossip.config import STREAM_BYTES_MAX
from beiran.gossip.effects import (
    Broadcast,
    Effect,
    HoldingsChanged,
    IdentityConflict,
    ImageDescribed,
    ImageForgotten,
    MemberChanged,
    MemberForgotten,
    SendDatagram,
    SendRequest,
    Unwatch,
    Watch,
)
from beiran.gossip.membership.member import Address
from beiran.gossip.node import GossipNode
from beiran.http.messages import Request, Response, Route, upgrade_required
from beiran.ids import NodeId
from beiran.net.alarm import Alarm
from beiran.net.beacon import BeaconSocket
from beiran.net.udp import Datagram, UdpSocket
from beiran.peers.connection_watch import watch
from beiran.peers.peer_client import PeerClient, PeerRefused, PeerUnreachable
from beiran.sansio.wire import HEADER_BYTES
from beiran.swarm.codec import is_swarm

GOSSIP_PATH: Final = "/gossip"
WATCH_PATH: Final = "/gossip/watch"
REQUEST_BODY_BYTES_MAX: Final = 8 * 1024 * 1024  # 10,000 nodes with 211 layers each take 2 MB
LEAVE_S: Final = (
    1.0  # how long a stopping agent waits for acknowledgements; the core tries for 0.4 s
)

_log: Final = logging.getLogger(__name__)


class EffectObserver(Protocol):
    """Part of the agent that acts on the facts that the core reports."""

    def on_effects(self, effects: Sequence[Effect]) -> None:
        """Take effects, in the order in which the core emitted them. Must not wait."""
        ...


class GossipDriver:
    """Drives one core.

    Args:
      tasks: runs requests and connection watches. It ends no later than what is handed in here.
      observers: take the effects that are not the driver's own, one after the other.
      swarm: takes datagrams of the swarm, which come to the same port.

    Attributes:
      identity_conflict: one line, once another agent has used this node's UUID.
    """

    def __init__(
        self,
        node: GossipNode,
        tasks: trio.Nursery,
        *,
        udp: UdpSocket,
        beacon: BeaconSocket | None,
        peers: PeerClient,
        observers: Sequence[EffectObserver],
        swarm: Callable[[bytes, Address], None],
    ) -> None:
        self.node: Final = node
        self.identity_conflict: str | None = None
        self._tasks: Final = tasks
        self._udp: Final = udp
        self._beacon: Final = beacon
        self._peers: Final = peers
        self._observers: Final = observers
        self._swarm: Final = swarm
        self._watches: dict[NodeId, trio.CancelScope] = {}
        self._leaving = False
        self._alarm: Final = Alarm(node.next_deadline)
        self._leave_acknowledged = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gossip until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_datagrams)
            if self._beacon is not None:
                nursery.start_soon(self._receive_beacons, self._beacon)
            self.do(self.node.start(now=trio.current_time(), beacons=self._beacon is not None))
            nursery.start_soon(self._keep_time)
            task_status.started()

    async def leave(self) -> None:
        """Leave the cluster, and wait up to ``LEAVE_S`` for members to acknowledge it."""
        self._leaving = True
        self.do(self.node.leave(now=trio.current_time()))
        with trio.move_on_after(LEAVE_S):
            await self._leave_acknowledged.wait()

    def routes(self) -> list[Route]:
        """The routes by which other agents reach this one over TCP."""
        return [
            Route(
                method="POST",
                pattern=GOSSIP_PATH,
                handler=self._answer,
                body_bytes_max=REQUEST_BODY_BYTES_MAX,
                listeners=("tcp",),
            ),
            Route(
                method="GET",
                pattern=WATCH_PATH,
                handler=upgrade_required,
                watch=True,
                listeners=("tcp",),
            ),
        ]

    def do(self, effects: list[Effect]) -> None:
        """Carry out what the core wants, and pass on the facts that it reports."""
        found: list[Effect] = []
        for effect in effects:
            match effect:
                case SendDatagram(to=to, data=data, confirmed=confirmed):
                    self._udp.send(data, to, confirmed=confirmed)
                case Broadcast(data=data):
                    if self._beacon is not None:
                        self._beacon.send(data)
                case SendRequest():
                    self._tasks.start_soon(self._request, effect)
                case Watch():
                    scope = self._watches[effect.node] = trio.CancelScope()
                    self._tasks.start_soon(self._watch, effect, scope)
                case Unwatch(node=node):
                    if node in self._watches:
                        self._watches.pop(node).cancel()
                case IdentityConflict(address=address):
                    self.identity_conflict = f"another agent uses this node's UUID: {address}"
                    _log.error(
                        "%s; on the host that is the copy, remove node.uuid from the configuration"
                        " folder and restart the agent",
                        self.identity_conflict,
                    )
                case (
                    MemberChanged()
                    | MemberForgotten()
                    | HoldingsChanged()
                    | ImageDescribed()
                    | ImageForgotten()
                ):
                    found.append(effect)
                case _:
                    assert_never(effect)
        if found:
            for observer in self._observers:
                observer.on_effects(found)
        if self._leaving and self.node.leave_acknowledged:
            self._leave_acknowledged.set()
        self._alarm.look()

    # --- the loops --------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            now = await self._alarm.ring()
            # The core gets the packets that have come meanwhile before it counts silence.
            for _ in range(2):  # one to ask the kernel for them, one to take them
                await trio.lowlevel.checkpoint()
            self.do(self.node.advance(now=now))

    async def _receive_datagrams(self) -> None:
        while True:
            datagrams, refusals = await self._udp.receive()
            # Refusals first: an agent that refused may have started again, and said so since.
            for address in refusals:
                self.do(self.node.refused(address, now=trio.current_time()))
            self._take(datagrams)

    async def _receive_beacons(self, beacon: BeaconSocket) -> None:
        while True:
            self._take(await beacon.receive())

    def _take(self, datagrams: list[Datagram]) -> None:
        now = trio.current_time()
        for data, source in datagrams:
            if is_swarm(data):
                self._swarm(data, source)
            else:
                self.do(self.node.receive_datagram(data, source, now=now))

    # --- TCP --------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        reply, effects = self.node.receive_request(request.body, now=trio.current_time())
        self.do(effects)
        if reply is None:
            raise BadRequest("not a gossip request of this cluster and wire version")
        return Response(headers=[("Content-Type", "application/x-msgpack")], body=reply)

    async def _request(self, effect: SendRequest) -> None:
        refused = False
        try:
            reply = await self._peers.post(
                effect.to,
                GOSSIP_PATH,
                effect.data,
                timeout_s=effect.timeout_s,
                response_bytes_max=STREAM_BYTES_MAX + HEADER_BYTES,
            )
        except PeerRefused:
            refused = True
        except (PeerUnreachable, RemoteProtocolError, OSError) as error:  # no descriptors left
            _log.debug("asking %s: %s", effect.to, error)
        else:
            self.do(self.node.receive_reply(effect.token, reply, now=trio.current_time()))
            return
        self.do(self.node.request_failed(effect.token, refused=refused, now=trio.current_time()))

    async def _watch(self, effect: Watch, scope: trio.CancelScope) -> None:
        def broken(*, refused: bool) -> None:
            now = trio.current_time()
            self.do(self.node.watch_broken(effect.node, refused=refused, now=now))

        with scope:
            await watch(self._peers, effect.address, WATCH_PATH, broken)
