"""This host's addresses, and the one among them that other agents reach it at.

psutil lists interfaces and addresses (getifaddrs(3) and ioctls). The routing table is asked by
connecting a UDP socket, which sends nothing.
"""

import ipaddress
import re
import socket
from contextlib import suppress
from typing import Final

import psutil
from msgspec import Struct

LOOPBACK: Final = "127.0.0.1"
WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})

# Bridges that Docker makes on each host for itself: only containers of this host are on them. A
# bridge with a name that its user chose is not recognised.
DOCKER_BRIDGE: Final = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")

# The route to an address of the internet is the default route. These are kept for documentation
# (RFC 5737, RFC 3849), so that no host has them.
_FAR_AWAY: Final = ("192.0.2.1", "2001:db8::1")


class InterfaceAddress(Struct, frozen=True, kw_only=True):
    """One address of one interface of this host.

    Attributes:
      index: the kernel's number of the interface.
      address: canonical text, IPv4 or IPv6, without a zone.
      broadcast: whether a packet can be sent to all on its link (IPv4; not loopback, not
        point-to-point).
    """

    name: str
    index: int
    address: str
    broadcast: bool = False
    up: bool = True
    loopback: bool = False

    @property
    def is_ipv6(self) -> bool:
        """Whether ``address`` is one of IPv6."""
        return ":" in self.address

    @property
    def is_link_local(self) -> bool:
        """Whether ``address`` is valid on its link only (169.254.0.0/16, fe80::/10)."""
        return ipaddress.ip_address(self.address).is_link_local

    @property
    def is_docker_bridge(self) -> bool:
        """Whether the interface's name is one that Docker gives its bridges."""
        return DOCKER_BRIDGE.fullmatch(self.name) is not None


def local_addresses() -> list[InterfaceAddress]:
    """All addresses of this host: IPv4 first, then by the interface's number.

    Raises: OSError when the kernel refuses the list.
    """
    states = psutil.net_if_stats()
    addresses: list[InterfaceAddress] = []
    for label, entries in psutil.net_if_addrs().items():
        name = label.partition(":")[0]  # getifaddrs names an address by its label (eth0:1)
        if name not in states:
            continue
        with suppress(OSError):  # the interface has gone meanwhile
            index, flags = socket.if_nametoindex(name), states[name].flags.split(",")
            addresses += [
                InterfaceAddress(
                    name=name,
                    index=index,
                    address=entry.address.partition("%")[0],
                    broadcast="broadcast" in flags and entry.family == socket.AF_INET,
                    up="up" in flags,
                    loopback="loopback" in flags,
                )
                for entry in entries
                if entry.family in (socket.AF_INET, socket.AF_INET6)
            ]
    return sorted(addresses, key=lambda own: (own.is_ipv6, own.index))


def best_address(bind: str, towards: str | None = None) -> str:
    """The address that this node advertises when the settings name none.

    ``bind`` itself when it is one address. Otherwise the source address of packets to ``towards``
    (None: by the default route), else the first address that another host may reach, else
    127.0.0.1. With ``bind`` ``::`` IPv4 is preferred, since such a socket serves both.
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
    """The source address of packets to ``far``; None without a route. Sends nothing."""
    family = socket.AF_INET6 if ":" in far else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))  # a UDP socket only chooses its route
            source: str = sock.getsockname()[0]
    except OSError:
        return None
    return None if source in WILDCARDS else source
