"""The UDP socket of gossip: sends without waiting, receives in batches, reports refusals.

The kernel reports ICMP's "port unreachable" to an unconnected UDP socket only with ``IP_RECVERR``:
then it queues such errors beside the datagrams, each with the address that the refused datagram
was sent to (ip(7)). So an agent learns at once that another agent is gone while its host is up.
Linux sends about one such answer a second to each host after a burst of six (``icmp_ratelimit``,
icmp(7)), loopback excepted. A refusal is evidence, and its absence is none. The gossip driver owns
this socket; the swarm shares it.
"""

import errno
import socket
import struct
from types import TracebackType
from typing import Annotated, Final, NamedTuple, Self

import trio
from msgspec import Meta, Struct

from beiran.errors import LocalError
from beiran.gossip.membership.member import Address

DATAGRAMS_PER_WAKEUP: Final = 64  # measured: 379,000 datagrams a second, one by one 85,000
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024  # chosen: some 3,000 datagrams of 1,400 bytes
DATAGRAM_BYTES_KERNEL_MAX: Final = 65_535  # a UDP length field holds no more: nothing is cut

# Linux's numbers, which the socket module names only from Python 3.14 on, or not at all.
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_SK_MEMINFO_DROPS: Final = 8  # index into what SO_MEMINFO answers, linux/sock_diag.h
_SK_MEMINFO: Final = struct.Struct("=9I")
_SOL_IP: Final = 0
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")  # sock_extended_err, linux/errqueue.h
_ORIGINS_ICMP: Final = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
_MAPPED: Final = "::ffff:"
_BUFFER_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


class Datagram(NamedTuple):
    """A datagram and its sender."""

    data: bytes
    source: Address


class UdpCounters(Struct):
    """Datagrams of a UDP socket since it was opened."""

    sent: Annotated[int, Meta(description="Datagrams accepted by the kernel.")] = 0
    sent_bytes: Annotated[int, Meta(description="Bytes accepted by the kernel.")] = 0
    received: Annotated[int, Meta(description="Datagrams received.")] = 0
    received_bytes: Annotated[int, Meta(description="Bytes of the datagrams received.")] = 0
    refused: Annotated[
        int,
        Meta(description="Datagrams refused by their port's host."),
    ] = 0
    unreachable: Annotated[int, Meta(description="Datagrams that could not be delivered.")] = 0
    unsent: Annotated[int, Meta(description="Datagrams dropped on this host.")] = 0
    full: Annotated[int, Meta(description="Datagrams dropped for lack of buffers.")] = 0


class UdpSocket:
    """A bound UDP socket. Made by `open_udp`; ``with`` closes it.

    Attributes:
      address: the bound address; for port 0, with the port that the kernel chose.
      receive_buffer_bytes: the part of `RECEIVE_BUFFER_BYTES` that the kernel granted. Less means
        that the agent may not exceed ``net.core.rmem_max`` (it lacks CAP_NET_ADMIN).
      counters: see `UdpCounters`.
    """

    def __init__(self, sock: socket.socket) -> None:
        host, port = sock.getsockname()[:2]
        self.address: Final = Address(host, port)
        self.receive_buffer_bytes: Final = _grow_receive_buffer(sock)
        self.counters: Final = UdpCounters()
        self._socket: Final = sock
        self._six: Final = sock.family == socket.AF_INET6

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

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because the receive buffer was full.

        0 before Linux 4.12, which has no ``SO_MEMINFO``.
        """
        try:
            answer = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _SK_MEMINFO.size)
        except OSError:
            return 0
        drops: int = _SK_MEMINFO.unpack(answer)[_SK_MEMINFO_DROPS]
        return drops

    async def receive(self) -> tuple[list[Datagram], list[Address]]:
        """Wait for a datagram or an error, then take all that have arrived.

        Returns: up to `DATAGRAMS_PER_WAKEUP` datagrams in order of arrival, whole and unchecked,
        and the addresses of refusals. Either may be empty. Both are after another error, which is
        counted.
        Raises: trio.ClosedResourceError when the socket is closed.
        """
        await wait_readable(self._socket)
        return self._take_datagrams(), self._take_refusals()

    def send(self, data: bytes, to: Address, *, confirmed: bool = False) -> bool:
        """Hand a datagram to the kernel without waiting.

        Args:
          to: a numeric address; a name is not looked up.
          confirmed: the receiver answered lately, so that the kernel need not ask ARP again
            (``MSG_CONFIRM``, send(2)).

        Returns: whether the kernel took it. Refused datagrams (no room, no route, a firewall, an
        invalid address) are counted.
        Raises: trio.ClosedResourceError when the socket is closed.
        """
        counters = self.counters
        target = self._target(to)
        if target is None:
            counters.unsent += 1
            return False
        flags = socket.MSG_CONFIRM if confirmed else 0
        try:
            try:
                self._socket.sendto(data, flags, target)
            except ConnectionRefusedError:
                # The error is of an earlier datagram, perhaps to another address, and is in the
                # error queue as well. This datagram was not sent yet.
                self._socket.sendto(data, flags, target)
        except OSError as exc:
            if exc.errno == errno.EBADF:
                raise trio.ClosedResourceError("this UDP socket is closed") from None
            counters.unsent += 1
            if exc.errno in _BUFFER_FULL:
                counters.full += 1
            return False
        counters.sent += 1
        counters.sent_bytes += len(data)
        return True

    def _target(self, to: Address) -> tuple[str, int] | tuple[str, int, int, int] | None:
        """``to`` for this socket's family; None for a name: sendto would look it up in the DNS."""
        host, port = to
        if not 0 < port < 65_536:
            return None
        try:
            if ":" not in host:
                socket.inet_pton(socket.AF_INET, host)
                return (_MAPPED + host, port) if self._six else (host, port)
            if not self._six:
                return None
            host, _, zone = host.partition("%")
            socket.inet_pton(socket.AF_INET6, host)
            return (host, port, 0, int(zone)) if zone else (host, port)
        except (OSError, ValueError):
            return None

    def _address(self, name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
        host, port = name[:2]
        if self._six:
            if host.startswith(_MAPPED):
                return Address(host[len(_MAPPED) :], port)
            if len(name) == 4 and name[3]:  # a link-local address means nothing without its link
                return Address(f"{host}%{name[3]}", port)
        return Address(host, port)

    def _take_datagrams(self) -> list[Datagram]:
        datagrams: list[Datagram] = []
        for _ in range(DATAGRAMS_PER_WAKEUP):
            try:
                data, name = self._socket.recvfrom(DATAGRAM_BYTES_KERNEL_MAX)
            except BlockingIOError:
                break
            except OSError:
                continue  # an error of an earlier send, which the error queue has as well
            datagrams.append(Datagram(data, self._address(name)))
            self.counters.received_bytes += len(data)
        self.counters.received += len(datagrams)
        return datagrams

    def _take_refusals(self) -> list[Address]:
        refusals: list[Address] = []
        for _ in range(DATAGRAMS_PER_WAKEUP):
            try:
                _, ancillary, _, name = self._socket.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                break
            if _is_refusal(ancillary):
                refusals.append(self._address(name))
            else:
                self.counters.unreachable += 1
        self.counters.refused += len(refusals)
        return refusals


def open_udp(bind: str, port: int) -> UdpSocket:
    """Open and bind the gossip socket. Use as ``with open_udp(...) as udp``.

    Args:
      bind: an IPv4 or IPv6 address; ``0.0.0.0`` for all of IPv4, ``::`` for all of both.
      port: 0 lets the kernel choose.

    Raises: LocalError if the port is taken, may not be used, or ``bind`` is not of this host.
    """
    six = ":" in bind
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        sock.setsockopt(_SOL_IP, _IP_RECVERR, 1)
        sock.bind((bind, port))
        return UdpSocket(sock)
    except OSError as exc:
        sock.close()
        raise LocalError(bind_problem(exc, bind, port, "--port")) from None


def bind_problem(exc: OSError, bind: str, port: int, option: str) -> str:
    """One line on why ``bind`` and UDP ``port`` could not be used. ``option`` sets the port."""
    if exc.errno == errno.EADDRINUSE:
        return (
            f"UDP port {port} is in use by another program (another beirand?); "
            f"choose another with {option}"
        )
    if exc.errno == errno.EACCES:
        return (
            f"UDP port {port} may not be used by this user; "
            f"choose one above 1023 with {option}, or start as root"
        )
    if exc.errno == errno.EADDRNOTAVAIL or isinstance(exc, socket.gaierror):
        return f"this host has no address {bind}; choose one of its own with --bind"
    return f"cannot open UDP port {port} on {bind}: {exc.strerror}"


async def wait_readable(sock: socket.socket) -> None:
    """Wait until ``sock`` has a datagram or an error.

    Raises: trio.ClosedResourceError when it is closed, before or meanwhile.
    """
    if sock.fileno() == -1:
        raise trio.ClosedResourceError("this UDP socket is closed")
    await trio.lowlevel.wait_readable(sock)


def close_socket(sock: socket.socket) -> None:
    """Close ``sock`` and wake the tasks that wait for it. Closing it again does nothing."""
    if sock.fileno() != -1:
        trio.lowlevel.notify_closing(sock)
        sock.close()


def _grow_receive_buffer(sock: socket.socket) -> int:
    """Request `RECEIVE_BUFFER_BYTES`, above the system's limit where allowed; the granted size."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    # The kernel doubles what it is asked for, to pay for its own bookkeeping, socket(7).
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def _is_refusal(ancillary: list[tuple[int, int, bytes]]) -> bool:
    for level, kind, data in ancillary:
        if (level, kind) in ((_SOL_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
            number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
            return number == errno.ECONNREFUSED and origin in _ORIGINS_ICMP
    return False
