"""A small DNS server on loopback: real sockets, and dnspython's own messages."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

from beiran.gossip.membership.member import Address

# (name with its last dot, kind): the records; None stands for a server that does not answer that.
Zone = Mapping[tuple[str, str], list[str] | None]


@dataclass
class DnsServer:
    zone: Zone
    address: Address
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Transport, name and kind of every question, in order."""

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((transport, name, kind))
        response = dns.message.make_response(query)
        if (name, kind) in self.zone:
            records = self.zone[name, kind]
            if records is None:
                return None
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if transport == "tcp":
            return response.to_wire(max_size=65535)
        whole = response.to_wire(max_size=65535)
        if len(whole) <= max(512, query.payload):
            return whole
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()


@asynccontextmanager
async def open_dns_server(zone: Zone) -> AsyncIterator[DnsServer]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    server = DnsServer(zone, Address("127.0.0.1", port))
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        await udp.bind(("127.0.0.1", port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_udp, server, udp)
            nursery.start_soon(
                trio.serve_listeners, lambda stream: _serve_tcp(server, stream), listeners
            )
            yield server
            nursery.cancel_scope.cancel()


async def _serve_udp(server: DnsServer, udp: trio.socket.SocketType) -> None:
    while True:
        wire, source = await udp.recvfrom(4096)
        answer = server.answer(wire, "udp")
        if answer is not None:
            await udp.sendto(answer, source)


async def _serve_tcp(server: DnsServer, stream: trio.SocketStream) -> None:
    async with stream:
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            received += await stream.receive_some()
        answer = server.answer(received[2:], "tcp")
        if answer is not None:
            await stream.send_all(len(answer).to_bytes(2, "big") + answer)
