"""A world whose hosts have kernels that send packets of their own: ARP and TCP keepalive."""

from typing import Final

from typing_extensions import override

from beiran.gossip.effects import Effect, SendDatagram
from simulations.fidelity.neighbours import Neighbours
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.links import Link
from simulations.kernel.processes import MakeProcesses, Processes
from simulations.kernel.streams import TCP_PACKET_BYTES
from simulations.kernel.traffic import KEEPALIVE

KEEPALIVE_S: Final = 120.0  # beiran/http/listeners.py


class KernelWorld(World):
    """Counts the packets of kernels, as interface counters in the lab do."""

    def __init__(
        self,
        seed: int,
        *,
        link: Link | None = None,
        processes: MakeProcesses[Host] = Processes,
    ) -> None:
        super().__init__(seed, link=link, processes=processes)
        self._neighbours: Final = Neighbours(self)
        self.every(KEEPALIVE_S, self._keep_alive)

    @override
    def do(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is SendDatagram:
                target = self.machines.at(effect.to)
                if target is not None:
                    self._neighbours.sent(host, target, confirmed=effect.confirmed)
        super().do(host, effects)

    def _keep_alive(self) -> None:
        """Probe each accepted connection: a packet each way."""
        for host in self.hosts:
            for connection in host.watched_by.values():
                for end in (host, connection.watcher):
                    end.traffic.count(KEEPALIVE, 1, TCP_PACKET_BYTES)
