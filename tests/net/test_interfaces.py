"""The addresses of this host, and of hosts made for the test, as the kernel lists them."""

import socket
import subprocess

import pytest

from beiran.net.interfaces import InterfaceAddress, best_address, local_addresses
from tests.net.hosts import needs_root, on_new_host

TWO_LANS = (
    "ip link add eth0 type veth peer name switch0",
    "ip address add 10.77.0.1/24 dev eth0",
    "ip link set switch0 up",
    "ip link set eth0 up",
    "ip link add eth1 type veth peer name switch1",
    "ip address add 10.78.0.1/16 dev eth1",
    "ip link set switch1 up",
    "ip link set eth1 up",
)
DOCKER = (
    "ip link add docker0 type bridge",
    "ip address add 172.17.0.1/16 dev docker0",
    "ip link set docker0 up",
    "ip link add br-0123456789ab type bridge",
    "ip address add 172.18.0.1/16 dev br-0123456789ab",
    "ip link set br-0123456789ab up",
)


def test_loopback_is_there_and_no_lan() -> None:
    [loopback] = [own for own in local_addresses() if own.address == "127.0.0.1"]
    assert loopback == InterfaceAddress(
        name="lo",
        index=socket.if_nametoindex("lo"),
        address="127.0.0.1",
        broadcast=False,
        up=True,
        loopback=True,
    )


@needs_root
@pytest.mark.lab
def test_every_address_is_listed_with_its_interface_and_whether_that_is_up() -> None:
    def look() -> list[tuple[str, str, bool, bool]]:
        return [
            (own.name, own.address, own.broadcast, own.up)
            for own in local_addresses()
            if not own.loopback and not own.is_link_local
        ]

    assert on_new_host(
        look,
        *TWO_LANS,
        "ip address add 10.77.0.2/24 dev eth0 label eth0:more",
        "ip address add fd00::1/64 dev eth0 nodad",
        "ip link set eth1 down",
        "ip tuntap add tun0 mode tun",
        "ip address add 10.79.0.1 peer 10.79.0.2 dev tun0",
    ) == [
        ("eth0", "10.77.0.1", True, True),
        ("eth0", "10.77.0.2", True, True),
        ("eth1", "10.78.0.1", True, False),
        ("tun0", "10.79.0.1", False, False),
        ("eth0", "fd00::1", False, True),
    ]


@needs_root
@pytest.mark.lab
def test_hundreds_of_addresses_are_all_listed() -> None:
    def look() -> int:
        batch = "".join(
            f"address add 10.{net}.{host}.1/24 dev lo\n"
            for net in (1, 2, 3, 4)
            for host in range(200)
        )
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True, timeout=60)
        return len([own for own in local_addresses() if own.address.startswith("10.")])

    assert on_new_host(look) == 800


@pytest.mark.parametrize(
    ("name", "docker"),
    [
        ("docker0", True),
        ("docker_gwbridge", True),
        ("br-0123456789ab", True),
        ("br-lan", False),
        ("br0", False),
        ("br-0123456789abc", False),
        ("docker01", False),
        ("eth0", False),
    ],
)
def test_bridges_that_docker_makes_are_known_by_name(name: str, docker: bool) -> None:
    own = InterfaceAddress(name=name, index=2, address="172.17.0.1")
    assert own.is_docker_bridge == docker


@pytest.mark.parametrize("bind", ["127.0.0.1", "10.77.0.1", "::1", "fd00::1"])
def test_one_address_is_advertised_as_it_is(bind: str) -> None:
    assert best_address(bind) == bind


def test_towards_this_host_the_best_address_is_the_one_packets_leave_with() -> None:
    assert best_address("0.0.0.0", "127.0.0.1") == "127.0.0.1"


@needs_root
@pytest.mark.lab
@pytest.mark.parametrize(
    ("bind", "towards", "commands", "best"),
    [
        ("0.0.0.0", None, (), "127.0.0.1"),
        ("0.0.0.0", None, TWO_LANS, "10.77.0.1"),
        ("0.0.0.0", None, (*TWO_LANS, "ip route add default via 10.78.0.9"), "10.78.0.1"),
        ("0.0.0.0", "10.78.3.4", TWO_LANS, "10.78.0.1"),
        ("0.0.0.0", "198.51.100.7", TWO_LANS, "10.77.0.1"),
        ("0.0.0.0", None, DOCKER, "127.0.0.1"),
        ("0.0.0.0", None, (*DOCKER, *TWO_LANS), "10.77.0.1"),
        ("::", None, TWO_LANS, "10.77.0.1"),
        ("0.0.0.0", None, (*TWO_LANS, "ip link set eth0 down"), "10.78.0.1"),
    ],
)
def test_the_best_address_is_the_one_that_others_reach(
    bind: str, towards: str | None, commands: tuple[str, ...], best: str
) -> None:
    assert on_new_host(lambda: best_address(bind, towards), *commands) == best


@needs_root
@pytest.mark.lab
def test_where_there_is_only_ipv6_a_socket_for_both_advertises_that() -> None:
    commands = (
        "ip link add eth0 type veth peer name switch0",
        "ip link set switch0 up",
        "ip address add fd00::1/64 dev eth0 nodad",
        "ip link set eth0 up",
    )
    assert on_new_host(lambda: best_address("::"), *commands) == "fd00::1"
    assert on_new_host(lambda: best_address("0.0.0.0"), *commands) == "127.0.0.1"
