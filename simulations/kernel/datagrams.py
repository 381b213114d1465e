"""UDP between hosts: ports, links, broadcasts, and ICMP's "port unreachable"."""

from collections import Counter
from typing import Final, Generic

from beiran.gossip.membership.member import Address
from simulations.kernel.host import H, Machines
from simulations.kernel.links import IP_UDP_BYTES, UDP_OVERHEAD_BYTES
from simulations.kernel.network import Network
from simulations.kernel.processes import Inputs, Processes
from simulations.kernel.time import VirtualTime

ICMP_INTERVAL_S: Final = 1.0  # Linux's icmp_ratelimit: one "unreachable" a second and target


class Datagrams(Generic[H]):
    """Carries every datagram of a world.

    Args:
      icmp: whether a machine without an agent refuses datagrams.
      dropped: counter of datagrams that no process got, by reason.

    Attributes:
      largest_bytes: payload of the largest datagram sent.
    """

    def __init__(
        self,
        time: VirtualTime,
        network: Network,
        machines: Machines[H],
        processes: Processes[H],
        inputs: Inputs[H],
        dropped: Counter[str],
        *,
        icmp: bool,
    ) -> None:
        self._time: Final = time
        self._network: Final = network
        self._machines: Final = machines
        self._processes: Final = processes
        self._inputs: Final = inputs
        self._dropped: Final = dropped
        self._icmp: Final = icmp
        self.largest_bytes = 0

    def send(self, host: H, to: Address, data: bytes, tag: int) -> None:
        """Send a datagram, counted as the kind ``tag``."""
        size = len(data)
        if size > self.largest_bytes:
            self.largest_bytes = size
        traffic = host.traffic
        traffic.packets_by_tag[tag] += 1
        traffic.bytes_by_tag[tag] += size + UDP_OVERHEAD_BYTES
        target = self._machines.at(to)
        if target is None:
            self._dropped["no such host"] += 1
            return
        at = self._time.now
        if host.uplink.port.bits_per_s:
            wait_s = host.uplink.wait_s(size + UDP_OVERHEAD_BYTES, at)
            if wait_s is None:
                self._dropped["uplink full"] += 1
                return
            at += wait_s
        network = self._network
        link = network.link
        if not network.intact and not network.passes(host.number, target.number):
            self._dropped["cut"] += 1
            return
        if not host.up:
            return
        if size + IP_UDP_BYTES > link.mtu:
            self._dropped["too large"] += 1
            return
        deliveries = link.deliveries(host.path_random)
        if not deliveries:
            self._dropped["lost"] += 1
        for delay_s in deliveries:
            self._time.schedule(at + delay_s, self._arrive, target, host, host.address, data)

    def broadcast(self, host: H, data: bytes, tag: int) -> None:
        """Send a datagram to every host of the LAN, the sender included."""
        host.traffic.count(tag, 1, len(data) + UDP_OVERHEAD_BYTES)
        if host.up:
            at = self._time.now + self._network.link.latency.draw(host.path_random)
            self._time.schedule(at, self._flood, host, host.address, data)

    def _flood(self, host: H, source: Address, data: bytes) -> None:
        """A broadcast reaches the whole LAN at one instant."""
        network, random = self._network, host.path_random
        for target in self._machines.on_lan(host.lan):
            link = network.link
            whole = target is host or network.intact
            if not whole and not network.passes(host.number, target.number):
                continue
            if not (link.loss and random.random() < link.loss):
                self._processes.hear(target, source, data)

    def _arrive(self, target: H, sender: H, source: Address, data: bytes) -> None:
        """A datagram is at the target's downlink."""
        if target.downlink.port.bits_per_s:
            now = self._time.now
            wait_s = target.downlink.wait_s(len(data) + UDP_OVERHEAD_BYTES, now)
            if wait_s is None:
                self._dropped["downlink full"] += 1
            else:
                self._time.schedule(now + wait_s, self._processes.hear, target, source, data)
        else:
            self._processes.hear(target, source, data)
        if self._icmp and not target.running and target.up:
            self._refuse(target, sender)

    def _refuse(self, target: H, sender: H) -> None:
        """The target's kernel answers "port unreachable", at most once a second and sender."""
        now = self._time.now
        last = target.refused_at.get(sender.number)
        if last is not None and now - last < ICMP_INTERVAL_S:
            return
        if not self._network.passes(target.number, sender.number):
            return
        target.refused_at[sender.number] = now
        at = now + self._network.link.latency.draw(target.path_random)
        self._time.schedule(at, self._hear_refusal, sender, sender.life, target.address)

    def _hear_refusal(self, host: H, life: int, address: Address) -> None:
        if host.online and host.life == life:
            self._processes.deliver(host, self._inputs.refused, host, address)
