"""TCP between hosts: who is reached, how long packets and bodies take, and what they count as.

A host that is off or cut off is silent, so requests to it time out. A machine without a process
refuses. A stopped process accepts (its kernel does) and does not answer. A lost packet is sent
again and costs time; nothing is lost for good while both ends are there. Workloads build their
requests and connections on these rules.
"""

from typing import Final

from simulations.kernel.host import Host
from simulations.kernel.network import Network
from simulations.kernel.traffic import TCP_CONTROL

TCP_PACKET_BYTES: Final = 66  # Ethernet, IPv4, and TCP headers with timestamps
TCP_PAYLOAD_BYTES: Final = 1448  # of a full packet with timestamps
TCP_HANDSHAKE_PACKETS: Final = 3  # to open, and as many to close
HTTP_HEAD_BYTES: Final = 130  # of a request or response between agents, measured roughly

SYN_AGAIN_S: Final = 1.0  # Linux's first retransmission of a SYN
DATA_AGAIN_S: Final = 0.2  # Linux's minimum retransmission timeout
LOST_IN_A_ROW_MAX: Final = 6  # retransmissions that are drawn; the timeout doubles each time


class Streams:
    """The TCP rules of one network."""

    def __init__(self, network: Network) -> None:
        self._network: Final = network

    def both_ways(self, a: Host, b: Host) -> bool:
        """Return whether packets pass between two machines in both directions."""
        if a is not b and not (a.up and b.up):
            return False
        network = self._network
        return network.passes(a.number, b.number) and network.passes(b.number, a.number)

    def leg_s(self, source: Host, again_s: float) -> float:
        """Return how long one packet of ``source`` takes, retransmissions included.

        Args:
          again_s: the first retransmission timeout; it doubles.
        """
        link = self._network.link
        random = source.path_random
        wait_s = link.latency.draw(random)
        tries = 0
        while link.loss and tries < LOST_IN_A_ROW_MAX and random.random() < link.loss:
            wait_s += again_s * 2.0**tries
            tries += 1
        return wait_s

    def round_trip_s(self, source: Host, target: Host) -> float:
        """Return how long a SYN and its answer take."""
        there_s = self.leg_s(source, SYN_AGAIN_S)
        return there_s + self.leg_s(target, SYN_AGAIN_S)

    def transfer_s(self, source: Host, target: Host, size_bytes: int) -> float:
        """Return how long a body takes over an open connection."""
        rates = [q.port.bits_per_s for q in (source.uplink, target.downlink) if q.port.bits_per_s]
        sending_s = 8 * size_bytes / min(rates) if rates else 0.0
        return self.leg_s(source, DATA_AGAIN_S) + sending_s

    @staticmethod
    def count_control(host: Host, packets: int, payload_bytes: int = 0) -> None:
        """Count handshakes and acknowledgements that a host sends."""
        host.traffic.count(TCP_CONTROL, packets, packets * TCP_PACKET_BYTES + payload_bytes)

    def count_body(self, source: Host, target: Host, size_bytes: int, tag: int) -> None:
        """Count an HTTP body of the kind ``tag``, and its acknowledgements."""
        payload_bytes = size_bytes + HTTP_HEAD_BYTES
        packets = 1 + payload_bytes // TCP_PAYLOAD_BYTES
        source.traffic.count(tag, packets, packets * TCP_PACKET_BYTES + payload_bytes)
        self.count_control(target, (packets + 1) // 2)  # one acknowledgement for two packets
