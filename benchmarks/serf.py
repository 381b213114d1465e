"""Debian's serf: HashiCorp's memberlist with user events, joined by address.

What it sees is read from its log, which has a member's change at once; the event stream of its
RPC coalesces those for seconds (serf/cmd/serf/command/agent, ``CoalescePeriod``).
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from benchmarks.chronicle import Chronicle, What, by_line
from benchmarks.gossiper import START_TIMEOUT_S, Processes
from tests.lab.network import Host, Lan

GOSSIP_PORT: Final = 7946
RPC_PORT: Final = 7373
RPC_TIMEOUT_S: Final = 30.0
_SAID: Final = re.compile(
    rb"serf: EventMember(Join|Failed|Leave|Reap): (\S+)|Received event: user-event: (\S+)"
)
_MEANS: Final[dict[bytes, What]] = {
    b"Join": "online",
    b"Failed": "offline",
    b"Leave": "left",
    b"Reap": "left",
}


def missing() -> str | None:
    """Why serf cannot run here, or None."""
    return None if shutil.which("serf") else "serf is not installed (Debian: apt-get install serf)"


class Serf(Processes):
    """``serf agent`` on each host, in its LAN profile. Source: ``serf agent -help``."""

    name = "serf"

    def __init__(self, lan: Lan, chronicle: Chronicle) -> None:
        super().__init__(lan, chronicle)
        self._rpc: dict[Host, _Rpc] = {}

    def start(self, hosts: Sequence[Host]) -> tuple[float, float]:
        # Whom all join must be there, or the rest waits for the next try.
        seed, *others = hosts
        self._launch(seed)
        self._open_rpc(seed)
        for host in others:
            self._launch(host)
        launched = time.monotonic()
        for host in others:
            self._open_rpc(host)
        return launched, time.monotonic()

    def restart(self, host: Host) -> None:
        if self._running[host].poll() is None:
            self.ended(host)
        self.chronicle.note(host.name, [("restarted", "")])
        self._rpc.pop(host).close()
        self._launch(host)
        self._open_rpc(host)

    def leave(self, host: Host) -> float:
        asked = time.monotonic()
        self._rpc[host].send("leave")
        return asked

    def tell(self, host: Host, news: str) -> float:
        asked = time.monotonic()
        self._rpc[host].ask("event", {"Name": news, "Payload": b"", "Coalesce": False})
        return asked

    def online(self, host: Host) -> set[str]:
        body = self._rpc[host].ask("members", answers=True)
        return {m["Name"] for m in body["Members"] if m["Status"] == "alive"}

    def _launch(self, host: Host) -> None:
        seeds = [other for other in self.lan.hosts[:2] if other != host][:1]
        process = subprocess.Popen(
            self.lan.command(
                host,
                "serf",
                "agent",
                f"-node={host.name}",
                f"-bind={host.address}:{GOSSIP_PORT}",
                f"-rpc-addr=127.0.0.1:{RPC_PORT}",
                "-log-level=info",
                *(f"-retry-join={seed.address}" for seed in seeds if self._running),
                "-retry-interval=1s",
            ),
            # One scheduler thread each: dozens of them share the cores.
            env={**os.environ, "GOMAXPROCS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if host in self._running and (before := self._running[host].stdout) is not None:
            before.close()
        self._running[host] = process
        assert process.stdout is not None
        self.chronicle.watch(process.stdout.fileno(), host.name, by_line(_read_line))

    def _open_rpc(self, host: Host) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._running[host].poll() is not None:
                raise RuntimeError(f"serf on {host.name} ended at once")
            connection = self.lan.socket(host, socket.SOCK_STREAM)
            try:
                connection.connect(("127.0.0.1", RPC_PORT))
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
                continue
            self._rpc[host] = _Rpc(connection)
            return

    def __exit__(self, *failure: Any) -> None:
        for rpc in self._rpc.values():
            rpc.close()
        super().__exit__(*failure)


class _Rpc:
    """Serf's RPC: msgpack headers and bodies one after the other. Source: serf's ``agent/rpc``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(RPC_TIMEOUT_S)
        self._unpacker = msgpack.Unpacker()
        self._sequence = 0
        self.ask("handshake", {"Version": 1})

    def send(self, command: str, body: dict[str, object] | None = None) -> None:
        self._sequence += 1
        message = msgpack.packb({"Command": command, "Seq": self._sequence})
        if body is not None:
            message += msgpack.packb(body)
        self._connection.sendall(message)

    def ask(
        self, command: str, body: dict[str, object] | None = None, *, answers: bool = False
    ) -> Any:
        self.send(command, body)
        header = self._receive()
        if header["Seq"] != self._sequence or header["Error"]:
            raise RuntimeError(f"serf answers {command} with {header}")
        return self._receive() if answers else None

    def _receive(self) -> Any:
        while True:
            for message in self._unpacker:
                return message
            data = self._connection.recv(1 << 16)
            if not data:
                raise ConnectionError("serf closed its RPC connection")
            self._unpacker.feed(data)

    def close(self) -> None:
        self._connection.close()


def _read_line(line: bytes) -> tuple[What, str] | None:
    said = _SAID.search(line)
    if said is None:
        return None
    if said[3] is not None:
        return "news", said[3].decode()
    return _MEANS[said[1]], said[2].decode()
