"""The beacon socket: agents on one LAN find each other by UDP broadcast, without an address.

All agents of a host share the beacon port. With ``SO_REUSEADDR`` on each socket Linux hands a
broadcast to all of them, also to those on the host that sent it, and a unicast to one only.

A beacon goes to 255.255.255.255 once on each LAN, by the interface's number (``IP_PKTINFO``,
ip(7)). Without the number it would need a default route and leave on that LAN alone. The directed
broadcast address (10.1.2.255) would be lost on hosts with another netmask. Both were tried. A host
on no LAN sends beacons on loopback, so that its own agents still find each other.

An agent receives beacons on the interfaces it sends them on. Others are counted and dropped. So an
agent bound to one LAN is not found on the others, and one bound to 127.0.0.1 on no other host.
The gossip driver sends and receives here.
"""

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Final, NamedTuple, Self

import trio
from msgspec import Meta, Struct

from beiran.errors import LocalError
from beiran.gossip.membership.member import Address
from beiran.net.interfaces import WILDCARDS, local_addresses
from beiran.net.udp import (
    DATAGRAM_BYTES_KERNEL_MAX,
    DATAGRAMS_PER_WAKEUP,
    Datagram,
    bind_problem,
    close_socket,
    wait_readable,
)

LIMITED_BROADCAST: Final = "255.255.255.255"  # RFC 919
LOOPBACK_BROADCAST: Final = "127.255.255.255"  # on loopback only this one reaches all
INTERFACES_REREAD_S: Final = 1.0  # after a LAN came up, its first beacon counts within this time

_SOL_IP: Final = 0
_IP_PKTINFO: Final = 8  # named by the socket module from Python 3.14 on
_PKTINFO: Final = struct.Struct("=i4s4s")  # struct in_pktinfo: index, our address, destination
_NO_ADDRESS: Final = bytes(4)


class Lan(NamedTuple):
    """One interface that beacons are sent on."""

    name: str
    number: int
    source: str
    """Our address there; 0.0.0.0 lets the kernel choose."""
    broadcast: str
    """The broadcast address that reaches all hosts on it."""


class BeaconCounters(Struct):
    """Datagrams of a beacon socket since it was opened."""

    sent: Annotated[int, Meta(description="Beacons sent, one for each LAN.")] = 0
    # Its buffer is full, a firewall forbids them, or an interface went down.
    unsent: Annotated[int, Meta(description="Beacons that the kernel refused.")] = 0
    received: Annotated[int, Meta(description="Datagrams received on the beacon port.")] = 0
    elsewhere: Annotated[
        int, Meta(description="Datagrams received on an interface that sends no beacons.")
    ] = 0


class BeaconSocket:
    """A bound beacon socket. Made by `open_beacon`; ``with`` closes it.

    Attributes:
      port: the beacon port.
      counters: see `BeaconCounters`.
      lans: the interfaces of the last look-up. Empty when ``bind`` is an IPv6 address, which has
        no broadcast, or an address that this host does not have.
    """

    def __init__(self, sock: socket.socket, bind: str) -> None:
        self.port: Final[int] = sock.getsockname()[1]
        self.counters: Final = BeaconCounters()
        self.lans: tuple[Lan, ...] = ()
        self._socket: Final = sock
        self._bind: Final = bind
        self._read_interfaces()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; a task that waits in `receive` gets ``trio.ClosedResourceError``."""
        close_socket(self._socket)

    def send(self, data: bytes) -> int:
        """Send ``data`` to the beacon port of all hosts on every LAN, this one included.

        The interfaces are looked up each time (0.3 ms), so that LANs may come and go.

        Returns: the number of LANs that the kernel sent it on. Failures are counted.
        Raises: trio.ClosedResourceError when the socket is closed.
        """
        if self._socket.fileno() == -1:
            raise trio.ClosedResourceError("this beacon socket is closed")
        self._read_interfaces()
        sent = 0
        for lan in self.lans:
            info = _PKTINFO.pack(lan.number, socket.inet_aton(lan.source), _NO_ADDRESS)
            try:
                self._socket.sendmsg(
                    [data], [(_SOL_IP, _IP_PKTINFO, info)], 0, (lan.broadcast, self.port)
                )
            except OSError:
                self.counters.unsent += 1
            else:
                sent += 1
        self.counters.sent += sent
        return sent

    async def receive(self) -> list[Datagram]:
        """Wait for a beacon, then take all that have arrived.

        Returns: 1 to `DATAGRAMS_PER_WAKEUP` datagrams in order of arrival, unchecked: our own,
        those of other clusters and garbage are among them. ``source.host`` is the sending host.
        The payload has the address of its agent.
        Raises: trio.ClosedResourceError when the socket is closed.
        """
        while True:
            await wait_readable(self._socket)
            datagrams = self._take_datagrams()
            if datagrams:
                return datagrams

    def _take_datagrams(self) -> list[Datagram]:
        datagrams: list[Datagram] = []
        for _ in range(DATAGRAMS_PER_WAKEUP):
            try:
                data, ancillary, _, name = self._socket.recvmsg(
                    DATAGRAM_BYTES_KERNEL_MAX, socket.CMSG_SPACE(_PKTINFO.size)
                )
            except OSError:
                break
            if self._is_ours(ancillary):
                datagrams.append(Datagram(data, Address(name[0], name[1])))
            else:
                self.counters.elsewhere += 1
        self.counters.received += len(datagrams)
        return datagrams

    def _is_ours(self, ancillary: list[tuple[int, int, bytes]]) -> bool:
        """Whether a datagram came by a LAN that this agent sends beacons on."""
        for level, kind, info in ancillary:
            if (level, kind) == (_SOL_IP, _IP_PKTINFO):
                index = _PKTINFO.unpack(info)[0]
                if self._beacons_on(index):
                    return True
                # The LAN may have come up since our last beacon; the next one may be minutes away.
                if trio.current_time() - self._read_at >= INTERFACES_REREAD_S:
                    self._read_interfaces()
                    return self._beacons_on(index)
        return False

    def _beacons_on(self, index: int) -> bool:
        return any(lan.number == index for lan in self.lans)

    def _read_interfaces(self) -> None:
        self._read_at = trio.current_time()
        # Without a free file descriptor the look-up fails, and the last one still holds.
        with suppress(OSError):
            self.lans = tuple(_lans(self._bind))


def open_beacon(port: int, bind: str) -> BeaconSocket:
    """Open the socket on the beacon port that all agents of this host share. Use with ``with``.

    Args:
      port: the same on all agents of a cluster.
      bind: the address of the gossip socket. With ``0.0.0.0`` or ``::`` beacons are sent and
        received on every LAN except Docker's own bridges (``docker0``, ``docker_gwbridge``,
        ``br-`` and 12 hex digits), and on loopback where there is no LAN. With one address, on
        that address's interface only.

    Raises: LocalError if the port is taken by a program that does not share it.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(_SOL_IP, _IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", port))
        return BeaconSocket(sock, bind)
    except OSError as exc:
        sock.close()
        raise LocalError(bind_problem(exc, "0.0.0.0", port, "--beacon-port")) from None


def _lans(bind: str) -> list[Lan]:
    """The interfaces to send beacons on, each once, by the rules of `open_beacon`."""
    own = [own for own in local_addresses() if own.up and not own.is_ipv6]
    if bind not in WILDCARDS:
        for address in own:
            if address.address == bind and address.broadcast:
                return [Lan(address.name, address.index, bind, LIMITED_BROADCAST)]
        # All of 127.0.0.0/8 is this host's, though the interface lists one address.
        return _loopback(bind) if bind.startswith("127.") else []
    lans: dict[int, Lan] = {}
    for address in own:
        if address.broadcast and not address.is_docker_bridge:
            lans.setdefault(
                address.index, Lan(address.name, address.index, "0.0.0.0", LIMITED_BROADCAST)
            )
    return list(lans.values()) or _loopback("0.0.0.0")


def _loopback(source: str) -> list[Lan]:
    return [
        Lan(own.name, own.index, source, LOOPBACK_BROADCAST)
        for own in local_addresses()
        if own.loopback and own.address == "127.0.0.1"
    ]
