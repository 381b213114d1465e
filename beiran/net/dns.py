"""Find agents by name: A, AAAA and SRV records, then the host's own resolver.

A Docker Swarm service answers ``tasks.NAME`` with an A record for each task, a headless Kubernetes
service its name with one for each pod, and its ``_PORT._udp.NAME`` with SRV records. Consul answers
a service's name with both. So every record counts, and SRV's priorities and weights do not: an
agent joins its cluster through any member that answers.

dnspython takes 55 ms and 4 MB to import, which agents without ``--dns`` are spared. The agent calls
``resolve_peers`` every minute.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from beiran.gossip.membership.member import Address

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver

QUERIES_AT_ONCE_MAX: Final = 16  # chosen, not measured
SRV_TARGETS_MAX: Final = 1000  # bounds what one answer makes us ask
# How long the missing records of a name are awaited once some are known. Some servers never answer
# for AAAA or SRV.
PATIENCE_S: Final = 1.0
# The rest of the time is for the host's resolver (/etc/hosts, mDNS) when the DNS gave nothing.
DNS_SHARE: Final = 0.7
UDP_PAYLOAD_BYTES: Final = 1232  # what crosses any path unfragmented, DNS flag day 2020


class Problem(NamedTuple):
    """A name without an address, and why, as text for a person."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Resolved(NamedTuple):
    """The addresses of the names, each once, in the order of the names."""

    addresses: list[Address]
    problems: list[Problem]


async def resolve_peers(
    names: Sequence[str],
    default_port: int,
    *,
    timeout_s: float,
    nameserver: Address | None = None,
) -> Resolved:
    """Look up ``names``, all at the same time.

    Args:
      names: ``NAME`` or ``NAME:PORT``. A name that starts with ``_`` has SRV records only; any
        other may have A, AAAA and SRV records, and is looked for on the search list too. An
        address stands for itself.
      default_port: for agents whose name and SRV record have no port.
      timeout_s: for all look-ups. Then the results so far are returned.
      nameserver: asked instead of those in ``/etc/resolv.conf``.

    Returns: the addresses, and each name without one. No answer of a DNS server raises.
    """
    resolver = _resolver(nameserver, timeout_s * DNS_SHARE)
    limiter = trio.CapacityLimiter(QUERIES_AT_ONCE_MAX)
    lookups = [_Lookup(name, default_port, resolver, limiter) for name in names]
    with trio.move_on_after(timeout_s):
        async with trio.open_nursery() as nursery:
            for lookup in lookups:
                nursery.start_soon(lookup.run)
    found: dict[Address, None] = {}
    problems: list[Problem] = []
    for lookup in lookups:
        addresses = lookup.addresses()
        found.update(dict.fromkeys(addresses))
        if not addresses:
            problems.append(Problem(lookup.name, lookup.reason or "no answer in time"))
    return Resolved(list(found), problems)


def _resolver(nameserver: Address | None, lifetime_s: float) -> dns.asyncresolver.Resolver | None:
    """None where this host has no DNS server to ask."""
    import dns.asyncresolver

    try:
        resolver = dns.asyncresolver.Resolver(configure=nameserver is None)
    except dns.resolver.NoResolverConfiguration:
        return None
    if nameserver is not None:
        resolver.nameservers = [nameserver.host]
        resolver.port = nameserver.port
    resolver.lifetime = lifetime_s
    resolver.use_edns(0, 0, UDP_PAYLOAD_BYTES)
    return resolver


class _Lookup:
    """One name and its results so far, so that a timeout loses none."""

    def __init__(
        self,
        name: str,
        default_port: int,
        resolver: dns.asyncresolver.Resolver | None,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self.name: Final = name
        self.reason = ""
        self._host, self._port = _split(name, default_port)
        self._resolver = resolver
        self._limiter = limiter
        self._by_service: list[Address] = []
        self._by_name: list[Address] = []

    def addresses(self) -> list[Address]:
        """Those with a port of their own first."""
        return self._by_service + self._by_name

    async def run(self) -> None:
        literal = _literal(self._host)
        if literal is not None:
            self._by_name.append(Address(literal, self._port))
            return
        if self._resolver is not None:
            if self._host.startswith("_"):
                await self._ask_service(lambda: None)
            else:
                await _until_enough(
                    self._ask_service,
                    partial(self._ask_host, "A", self._host, self._port, self._by_name),
                    partial(self._ask_host, "AAAA", self._host, self._port, self._by_name),
                )
        if not self.addresses() and not self._host.startswith("_"):
            await self._ask_this_host()

    async def _ask_service(self, enough: Callable[[], None]) -> None:
        answer = await self._ask(self._host, "SRV")
        targets = [(str(record.target), record.port) for record in answer][:SRV_TARGETS_MAX]
        async with trio.open_nursery() as nursery:
            for host, port in targets:
                if host != ".":  # "decidedly not available at this domain", RFC 2782
                    nursery.start_soon(self._ask_target, host, port)
        if self._by_service:
            enough()

    async def _ask_target(self, host: str, port: int) -> None:
        await _until_enough(
            partial(self._ask_host, "A", host, port, self._by_service),
            partial(self._ask_host, "AAAA", host, port, self._by_service),
        )

    async def _ask_host(
        self, kind: str, host: str, port: int, found: list[Address], enough: Callable[[], None]
    ) -> None:
        literals = [_literal(record.address) for record in await self._ask(host, kind)]
        found.extend(Address(literal, port) for literal in literals if literal is not None)
        if literals:
            enough()

    async def _ask(self, host: str, kind: str) -> Iterable[Any]:
        """Records of one kind; none when the look-up fails, and ``reason`` says why."""
        import dns.asyncbackend
        import dns.exception
        import dns.resolver

        assert self._resolver is not None
        backend = dns.asyncbackend.get_backend("trio")
        async with self._limiter:
            try:
                return await self._resolver.resolve(host, kind, search=True, backend=backend)
            except dns.resolver.NXDOMAIN:
                self.reason = "the DNS knows no such name"
            except dns.resolver.NoAnswer:
                self.reason = self.reason or "the DNS has no address for it"
            except dns.exception.Timeout:
                self.reason = "the DNS does not answer"
            except dns.resolver.NoNameservers:
                self.reason = "the DNS server failed"
            except dns.exception.DNSException as exc:
                self.reason = f"not a name for the DNS ({exc})"
        return ()

    async def _ask_this_host(self) -> None:
        try:
            infos = await trio.socket.getaddrinfo(self._host, None, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            self.reason = self.reason or "neither the DNS nor this host knows the name"
            return
        hosts = dict.fromkeys(_literal(str(info[4][0])) for info in infos)
        self._by_name.extend(Address(host, self._port) for host in hosts if host is not None)


async def _until_enough(*askers: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
    """Run all; the first that has a result leaves the others `PATIENCE_S`."""
    async with trio.open_nursery() as nursery:

        def enough() -> None:
            deadline = trio.current_time() + PATIENCE_S
            nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, deadline)

        for asker in askers:
            nursery.start_soon(asker, enough)


def _split(name: str, default_port: int) -> tuple[str, int]:
    """``NAME``, ``NAME:PORT``, ``ADDRESS``, ``[ADDRESS]:PORT`` in two."""
    host, colon, port = name.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return name.strip("[]"), default_port


def _literal(host: str) -> str | None:
    """``host`` in canonical form when it is an address, else None."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
