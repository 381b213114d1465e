"""Beacons, between real sockets on one host and between hosts on a real LAN."""

import socket
import threading
from collections.abc import Sequence

import pytest
import trio

from beiran.errors import LocalError
from beiran.gossip.membership.member import Address
from beiran.net.beacon import BeaconSocket, Lan, open_beacon
from beiran.net.udp import DATAGRAMS_PER_WAKEUP
from tests.lab.network import Host
from tests.lab.network import Lan as LabLan
from tests.net.hosts import needs_root, on_host, on_new_host, run_commands
from tests.net.test_interfaces import DOCKER, TWO_LANS

BEACON_PORT = 8887


async def heard(beacon: BeaconSocket) -> list[bytes]:
    """Wait for datagrams at a beacon socket. Returns those of one wakeup."""
    with trio.fail_after(10):
        return [datagram.data for datagram in await beacon.receive()]


async def test_agents_of_one_host_hear_each_other_and_themselves_on_loopback() -> None:
    with open_beacon(0, "127.0.0.1") as first, open_beacon(first.port, "127.0.0.1") as second:
        assert first.send(b"here I am") == 1
        assert await heard(first) == [b"here I am"]
        with trio.fail_after(10):
            [beacon] = await second.receive()
        assert beacon.data == b"here I am"
        assert beacon.source == Address("127.0.0.1", first.port)
        assert (first.counters.sent, second.counters.received) == (1, 1)


async def test_the_address_on_loopback_that_we_are_bound_to_is_the_one_that_speaks() -> None:
    with open_beacon(0, "127.0.0.7") as beacon:
        beacon.send(b"here I am")
        with trio.fail_after(10):
            [datagram] = await beacon.receive()
        assert datagram.source.host == "127.0.0.7"


async def test_one_wakeup_takes_what_is_there_up_to_a_limit() -> None:
    with open_beacon(0, "127.0.0.1") as beacon:
        for _ in range(DATAGRAMS_PER_WAKEUP + 1):
            beacon.send(b"here I am")
        assert len(await heard(beacon)) == DATAGRAMS_PER_WAKEUP
        assert len(await heard(beacon)) == 1


async def test_there_is_no_broadcast_where_we_have_an_ipv6_or_a_strange_address() -> None:
    for bind in ("::1", "198.51.100.7"):
        with open_beacon(0, bind) as beacon:
            assert beacon.lans == ()
            assert beacon.send(b"here I am") == 0


async def test_a_port_that_another_program_keeps_for_itself_is_one_clear_line() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        with pytest.raises(LocalError, match=rf"^UDP port {port} is in use .*--beacon-port$"):
            open_beacon(port, "0.0.0.0")


async def test_closing_wakes_a_waiting_receive() -> None:
    beacon = open_beacon(0, "127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await beacon.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        beacon.close()
    with pytest.raises(trio.ClosedResourceError):
        beacon.send(b"x")


@needs_root
@pytest.mark.lab
@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
@pytest.mark.parametrize(
    "commands",
    [
        pytest.param((), id="no network"),
        pytest.param(DOCKER, id="Docker only"),
        pytest.param(TWO_LANS, id="no default route"),
        pytest.param((*TWO_LANS, "ip link set switch0 down"), id="no carrier"),
        pytest.param((*TWO_LANS, "ip route add default via 10.77.0.9"), id="default route"),
    ],
)
def test_agents_of_one_host_find_each_other_whatever_its_network(
    bind: str, commands: Sequence[str]
) -> None:
    async def speak_and_hear() -> None:
        with open_beacon(BEACON_PORT, bind) as first, open_beacon(BEACON_PORT, bind) as second:
            assert first.send(b"here I am") == len(first.lans) > 0
            assert set(await heard(first)) == set(await heard(second)) == {b"here I am"}

    on_new_host(lambda: trio.run(speak_and_hear), *commands)


@needs_root
@pytest.mark.lab
@pytest.mark.parametrize(
    ("bind", "commands", "names"),
    [
        ("0.0.0.0", (*DOCKER, *TWO_LANS), ["eth0", "eth1"]),
        ("0.0.0.0", (*TWO_LANS, "ip address add 10.77.0.2/24 dev eth0"), ["eth0", "eth1"]),
        ("0.0.0.0", (*TWO_LANS, "ip link set eth0 down"), ["eth1"]),
        ("10.78.0.1", TWO_LANS, ["eth1"]),
        ("127.0.0.1", TWO_LANS, ["lo"]),
        ("172.17.0.1", DOCKER, ["docker0"]),
        ("0.0.0.0", (*TWO_LANS, "ip link set lo down"), ["eth0", "eth1"]),
    ],
)
def test_beacons_go_to_every_lan_that_we_are_bound_to(
    bind: str, commands: Sequence[str], names: list[str]
) -> None:
    async def look() -> list[str]:
        with open_beacon(BEACON_PORT, bind) as beacon:
            assert beacon.send(b"here I am") == len(beacon.lans)
            return [lan.name for lan in beacon.lans]

    assert on_new_host(lambda: trio.run(look), *commands) == names


@needs_root
@pytest.mark.lab
def test_a_lan_that_comes_up_later_is_beaconed_on() -> None:
    async def look() -> None:
        with open_beacon(BEACON_PORT, "0.0.0.0") as beacon:
            assert [lan.name for lan in beacon.lans] == ["lo"]
            run_commands(TWO_LANS)
            assert beacon.send(b"here I am") == 2
            assert [lan.name for lan in beacon.lans] == ["eth0", "eth1"]

    on_new_host(lambda: trio.run(look))


@needs_root
@pytest.mark.lab
def test_a_firewall_that_forbids_beacons_is_counted() -> None:
    async def speak() -> None:
        with open_beacon(BEACON_PORT, "0.0.0.0") as beacon:
            assert beacon.send(b"here I am") == 0
            assert (beacon.counters.sent, beacon.counters.unsent) == (0, 2)

    on_new_host(lambda: trio.run(speak), *TWO_LANS, "iptables -A OUTPUT -p udp -j DROP")


@needs_root
@pytest.mark.lab
def test_every_agent_on_the_lan_hears_a_beacon_once() -> None:
    with LabLan("bnet", 3) as lan:
        ears = [_Ear(host, "0.0.0.0", 1) for host in lan.hosts for _ in range(2)]
        for ear in ears:
            ear.start()
        on_host(lan.hosts[0].namespace, lambda: trio.run(_speak, "0.0.0.0", b"here I am"))
        speaker = lan.hosts[0].address
        for ear in ears:
            assert ear.hear() == [(b"here I am", speaker)]


@needs_root
@pytest.mark.lab
def test_an_agent_listens_on_the_lans_where_it_speaks_and_on_no_other() -> None:
    async def speak_elsewhere() -> None:
        with (
            open_beacon(BEACON_PORT, "10.77.0.1") as here,
            open_beacon(BEACON_PORT, "10.78.0.1") as there,
            open_beacon(BEACON_PORT, "127.0.0.1") as inside,
        ):
            assert here.lans == (
                Lan("eth0", socket.if_nametoindex("eth0"), "10.77.0.1", "255.255.255.255"),
            )
            for beacon, name in ((there, b"there"), (inside, b"inside"), (here, b"here")):
                assert beacon.send(name) == 1
            assert await heard(here) == [b"here"]
            assert await heard(there) == [b"there"]
            assert await heard(inside) == [b"inside"]
            assert here.counters.elsewhere == 2

    on_new_host(lambda: trio.run(speak_elsewhere), *TWO_LANS)


@needs_root
@pytest.mark.lab
def test_a_lan_that_came_up_since_our_last_beacon_is_listened_to() -> None:
    async def look() -> None:
        with open_beacon(BEACON_PORT, "0.0.0.0") as quiet:
            run_commands(TWO_LANS)
            with open_beacon(BEACON_PORT, "0.0.0.0") as speaker:
                with trio.fail_after(10):
                    while not quiet.counters.received:
                        speaker.send(b"here I am")
                        with trio.move_on_after(0.1):
                            await quiet.receive()

    on_new_host(lambda: trio.run(look))


async def _speak(bind: str, data: bytes) -> None:
    with open_beacon(BEACON_PORT, bind) as beacon:
        assert beacon.send(data) == 1


class _Ear:
    """An agent's beacon socket on another host, in a thread that listens there."""

    def __init__(self, host: Host, bind: str, beacons: int) -> None:
        self._host = host
        self._bind = bind
        self._beacons = beacons
        self._ready = threading.Event()
        self._heard: list[tuple[bytes, str]] = []
        self._thread = threading.Thread(
            target=on_host, args=(host.namespace, lambda: trio.run(self._listen))
        )

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def hear(self) -> list[tuple[bytes, str]]:
        self._thread.join()
        return self._heard

    async def _listen(self) -> None:
        with open_beacon(BEACON_PORT, self._bind) as beacon, trio.fail_after(10):
            self._ready.set()
            while len(self._heard) < self._beacons:
                self._heard += [(data, source.host) for data, source in await beacon.receive()]
            # Whatever else is there came with it.
            with trio.move_on_after(0.05):
                self._heard += [(data, source.host) for data, source in await beacon.receive()]
