"""This host's addresses, straight from the kernel (rtnetlink(7)), and which one to advertise."""

import fcntl
import ipaddress
import re
import socket
import struct
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

LOOPBACK: Final = "127.0.0.1"
WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})

# Bridges that Docker makes on each host for itself: whoever is on them is a container here. A
# bridge that was given a name of its own is not known by it.
DOCKER_BRIDGE: Final = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")

# linux/if.h
_IFF_UP: Final = 0x1
_IFF_BROADCAST: Final = 0x2
_IFF_LOOPBACK: Final = 0x8
_SIOCGIFFLAGS: Final = 0x8913
# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_ADDRESS: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct rtattr
_IFREQ: Final = struct.Struct("16sH22x")  # struct ifreq
_NETLINK_BYTES_MAX: Final = 65_536

# Where packets go when nothing nearer is known: any address of the internet shows the default
# route, and one kept for documentation (RFC 5737, RFC 3849) belongs to nobody.
_FAR_AWAY: Final = ("192.0.2.1", "2001:db8::1")


class InterfaceAddress(Struct, frozen=True, kw_only=True):
    """One address of one interface of this host.

    Attributes:
      index: the kernel's number of the interface.
      address: canonical text, IPv4 or IPv6, without a zone.
      prefix_bits: length of the network's part of it.
      broadcast: whether a packet can be sent to all on its link (IPv4; not loopback, not
        point-to-point).
    """

    name: str
    index: int
    address: str
    prefix_bits: int
    broadcast: bool = False
    up: bool = True
    loopback: bool = False

    @property
    def is_ipv6(self) -> bool:
        """Whether ``address`` is one of IPv6."""
        return ":" in self.address

    @property
    def is_link_local(self) -> bool:
        """Whether ``address`` is good on its link only (169.254.0.0/16, fe80::/10)."""
        return ipaddress.ip_address(self.address).is_link_local

    @property
    def is_docker_bridge(self) -> bool:
        """Whether only containers of this host are behind it, as far as its name tells."""
        return DOCKER_BRIDGE.fullmatch(self.name) is not None


def local_addresses() -> list[InterfaceAddress]:
    """All addresses of this host in the kernel's order: interfaces by index, IPv4 first.

    Raises: OSError if the kernel refuses to tell.
    """
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet,
    ):
        addresses: list[InterfaceAddress] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for index, prefix_bits, attributes in _dump_addresses(netlink, family):
                # On a point-to-point link IFA_ADDRESS is the other end's.
                own = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
                named = _name_and_flags(inet, index)
                if own is None or named is None:
                    continue
                name, flags = named
                addresses.append(
                    InterfaceAddress(
                        name=name,
                        index=index,
                        address=socket.inet_ntop(family, own),
                        prefix_bits=prefix_bits,
                        broadcast=family == socket.AF_INET and bool(flags & _IFF_BROADCAST),
                        up=bool(flags & _IFF_UP),
                        loopback=bool(flags & _IFF_LOOPBACK),
                    )
                )
        return addresses


def best_address(bind: str, towards: str | None = None) -> str:
    """The address to tell others when nobody said which.

    ``bind`` itself when it is one address. Otherwise the one that packets to ``towards`` (the
    default route, if None) leave with, else the first that another host may reach, else
    127.0.0.1. With ``bind`` ``::`` an IPv4 address is preferred, since such a socket serves both.
    """
    if bind not in WILDCARDS:
        return bind
    for far in _FAR_AWAY if towards is None else (towards,):
        source = _source_address(far)
        if source is not None and (bind == "::" or ":" not in source):
            return source
    for own in local_addresses():
        reachable = own.up and not (own.loopback or own.is_link_local or own.is_docker_bridge)
        if reachable and (bind == "::" or not own.is_ipv6):
            return own.address
    return LOOPBACK


def _source_address(far: str) -> str | None:
    """The address that packets to ``far`` leave with; None without a route. Sends nothing."""
    family = socket.AF_INET6 if ":" in far else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))  # of a UDP socket: chooses the route, and that is all
            source: str = sock.getsockname()[0]
    except OSError:
        return None
    return None if source in WILDCARDS else source


def _dump_addresses(
    netlink: socket.socket, family: int
) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Interface index, prefix length and attributes of each address of ``family``."""
    body = _ADDRESS.pack(family, 0, 0, 0, 0)
    netlink.send(
        _HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 0, 0) + body
    )
    while True:
        data = memoryview(netlink.recv(_NETLINK_BYTES_MAX))
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                raise OSError(number, "the kernel does not list this host's addresses")
            message = data[_HEADER.size : length]
            if kind == _RTM_NEWADDR and message[0] == family:
                _, prefix_bits, _, _, index = _ADDRESS.unpack_from(message)
                yield index, prefix_bits, dict(_attributes(message[_ADDRESS.size :]))
            data = data[_aligned(length) :]


def _attributes(data: memoryview) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, bytes(data[_ATTRIBUTE.size : length])
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _name_and_flags(inet: socket.socket, index: int) -> tuple[str, int] | None:
    """Of the interface ``index``; None if it has gone in the meantime."""
    try:
        name = socket.if_indextoname(index)
        answer = fcntl.ioctl(inet, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
    except OSError:
        return None
    flags: int = _IFREQ.unpack(answer)[1]
    return name, flags
