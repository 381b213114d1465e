"""Which proxy a request goes through, by ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``.

Read as dockerd and containerd read them. Source: ``golang.org/x/net/http/httpproxy``.
"""

import ipaddress
from collections.abc import Mapping
from typing import Final

LOOPBACK_NAMES: Final = ("localhost",)


def proxy_for(scheme: str, host: str, port: int, environ: Mapping[str, str]) -> str | None:
    """The URL of the proxy for ``scheme://host:port``; None to connect directly.

    Loopback never goes through a proxy. Names without a scheme are HTTP proxies.
    """
    proxy = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not proxy or is_loopback(host) or _is_excepted(host, port, _variable(environ, "no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its name or address alone; no DNS is asked."""
    if host.lower().rstrip(".") in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper()) or environ.get(name) or ""


def _is_excepted(host: str, port: int, exceptions: str) -> bool:
    """Each exception is ``*``, a name (and all below it), ``.NAME``, an address or a CIDR range.

    A port behind a name or an address limits it to that port.
    """
    name = host.lower().rstrip(".").strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    for text in exceptions.lower().split(","):
        one = text.strip()
        if one == "*":
            return True
        if not one:
            continue
        if address is not None and _in_range(address, one):
            return True
        one, own_port = _without_port(one)
        if own_port is not None and own_port != port:
            continue
        if name == one or (address is None and name.endswith("." + one.lstrip("*."))):
            return True
    return False


def _in_range(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> bool:
    try:
        return address in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False


def _without_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return text.strip("[]"), None
