"""An agent counts invalid bytes from other hosts of the LAN, and otherwise ignores them."""

import random
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab.agents import RunningAgent, await_one_state, eventually
from tests.lab.conftest import OpenAgents

pytestmark = pytest.mark.lab

PORT = 8888
BEACON_PORT = 8887


def members(agent: RunningAgent) -> list[tuple[Any, ...]]:
    fields = ("uuid", "name", "address", "port", "state", "generation", "incarnation")
    return [tuple(node[name] for name in fields) for node in agent.get("/nodes?all=true")["nodes"]]


def test_garbage_on_udp_and_tcp_changes_nothing_and_is_counted(open_agents: OpenAgents) -> None:
    agents = open_agents(3)
    *hosts, stranger = agents.lan.hosts
    running = agents.start_all(hosts)
    await_one_state(running)
    target = running[0]
    before = members(target)
    counted = counters(target)
    noise = random.Random(7)
    with agents.lan.socket(stranger, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        broadcast = str(agents.lan.network.broadcast_address)
        for _ in range(500):
            udp.sendto(noise.randbytes(noise.randrange(1, 1400)), (target.host.address, PORT))
            udp.sendto(noise.randbytes(noise.randrange(1, 400)), (broadcast, BEACON_PORT))
    for _ in range(30):
        with agents.lan.socket(stranger, socket.SOCK_STREAM) as tcp:
            tcp.settimeout(10)
            tcp.connect((target.host.address, PORT))
            tcp.sendall(noise.randbytes(2000))
    eventually(lambda: counters(target)["bad_packets"] > counted["bad_packets"], True)
    assert target.process is not None
    assert target.process.poll() is None
    assert members(target) == before
    await_one_state(running)


def counters(agent: RunningAgent) -> Mapping[str, int]:
    answer: Mapping[str, int] = agent.get("/info")["counters"]
    return answer
