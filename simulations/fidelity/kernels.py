"""A world whose hosts have kernels, which send packets of their own: ARP and TCP keepalive."""

from typing import Final

from beiran.gossip.effects import Effect, SendDatagram
from simulations.fidelity.kinds import KEEPALIVE
from simulations.fidelity.neighbours import Neighbours
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.network import TCP_PACKET_BYTES, Link

KEEPALIVE_S: Final = 120.0  # beiran/http/listeners.py


class KernelWorld(World):
    """Interface counters see what kernels send, and so does whoever pays for the network."""

    def __init__(self, seed: int, *, link: Link | None = None) -> None:
        super().__init__(seed, link=link)
        self._neighbours: Final = Neighbours(self)
        self.every(KEEPALIVE_S, self._keep_alive)

    def do(self, host: Host, effects: list[Effect]) -> None:
        """As ``World.do``, counting what the kernel asks for before it sends."""
        for effect in effects:
            if type(effect) is SendDatagram:
                target = self.machine_at(effect.to)
                if target is not None:
                    self._neighbours.sent(host, target, confirmed=effect.confirmed)
        super().do(host, effects)

    def _keep_alive(self) -> None:
        """Each accepted connection is asked whether it lives: a packet each way."""
        for host in self.hosts:
            for watching in host.watched_by.values():
                for end in (host, watching.watcher):
                    end.traffic.packets_by_tag[KEEPALIVE] += 1
                    end.traffic.bytes_by_tag[KEEPALIVE] += TCP_PACKET_BYTES
