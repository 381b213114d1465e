"""Requests over TCP between agents: push-pulls and the TCP fallback of a probe.

The reply or the failure reaches the asking core, whichever is first. Timeouts, refusals and
delays follow ``simulations.kernel.streams``.
"""

from typing import Final

from beiran.gossip.effects import SendRequest
from simulations.gossip.host import Host, kind_of
from simulations.kernel.streams import DATA_AGAIN_S, TCP_HANDSHAKE_PACKETS, Streams
from simulations.kernel.world import World


class Requests:
    """All requests of one world."""

    def __init__(self, world: World[Host], streams: Streams) -> None:
        self._world: Final = world
        self._streams: Final = streams

    def send(self, host: Host, effect: SendRequest) -> None:
        """Send a request that a core asks for."""
        world, streams = self._world, self._streams
        token, life = effect.token, host.life
        host.requests[token] = life
        world.schedule(world.now + effect.timeout_s, self._time_out, host, life, token)
        target = world.machines.at(effect.to)
        if target is None or not target.up or not streams.both_ways(host, target):
            streams.count_control(host, 1)
            return
        round_trip_s = streams.round_trip_s(host, target)
        streams.count_control(host, TCP_HANDSHAKE_PACKETS)
        streams.count_control(target, TCP_HANDSHAKE_PACKETS)
        if not target.accepts_tcp:
            world.schedule(world.now + round_trip_s, self._failed, host, life, token, True)
            return
        tag = kind_of(effect.data)
        streams.count_body(host, target, len(effect.data), tag)
        wait_s = round_trip_s + streams.transfer_s(host, target, len(effect.data))
        world.note(host, f"asks h{target.number} {tag}")
        arguments = (host, life, token, target, target.life, effect.data)
        world.schedule(world.now + wait_s, self._arrived, *arguments)

    def _arrived(
        self, host: Host, life: int, token: int, target: Host, target_life: int, data: bytes
    ) -> None:
        if not target.up or not self._world.network.passes(host.number, target.number):
            return
        if not target.running or target.life != target_life:  # ended meanwhile: a reset
            self._failed(host, life, token, False)
            return
        self._world.processes.deliver(target, self._serve, host, life, token, target, data)

    def _serve(self, host: Host, life: int, token: int, target: Host, data: bytes) -> None:
        world, streams = self._world, self._streams
        reply, effects = target.node.receive_request(data, now=target.clock.local(world.now))
        world.do(target, effects)
        if not streams.both_ways(host, target):
            return
        if reply is None:  # HTTP 400
            wait_s = streams.leg_s(target, DATA_AGAIN_S)
            world.schedule(world.now + wait_s, self._failed, host, life, token, False)
            return
        streams.count_body(target, host, len(reply), kind_of(reply))
        wait_s = streams.transfer_s(target, host, len(reply))
        world.schedule(world.now + wait_s, self._answered, host, life, token, reply)

    def _answered(self, host: Host, life: int, token: int, reply: bytes) -> None:
        if host.life == life and host.online:
            self._world.processes.deliver(host, self._take_reply, host, life, token, reply)

    def _take_reply(self, host: Host, life: int, token: int, reply: bytes) -> None:
        if host.requests.pop(token, None) == life:
            now = host.clock.local(self._world.now)
            self._world.do(host, host.node.receive_reply(token, reply, now=now))

    def _failed(self, host: Host, life: int, token: int, refused: bool) -> None:
        if host.life == life and host.online:
            self._world.processes.deliver(host, self._take_failure, host, life, token, refused)

    def _time_out(self, host: Host, life: int, token: int) -> None:
        if host.life == life and host.running and token in host.requests:
            self._world.processes.deliver(host, self._take_failure, host, life, token, False)

    def _take_failure(self, host: Host, life: int, token: int, refused: bool) -> None:
        if host.requests.pop(token, None) == life:
            now = host.clock.local(self._world.now)
            effects = host.node.request_failed(token, refused=refused, now=now)
            self._world.do(host, effects)
