"""The lab does what the tests that rely on it believe."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab.conftest import missing_for_network
from tests.lab.network import NETNS_FOLDER, Host, Lan

pytestmark = pytest.mark.lab

PREFIX = "brnlabnet"
PORT = 999


@pytest.fixture
def lan() -> Iterator[Lan]:
    if reason := missing_for_network():
        pytest.skip(reason)
    with Lan(PREFIX, 3) as made:
        yield made


TRIES_WHEN_CUT = 5
TRIES = 40  # an address that was not found lately is asked for again within a second or two


def reaches(
    lan: Lan, sender: Host, receiver: Host, address: str | None = None, *, tries: int = TRIES
) -> bool:
    """Whether one of ``tries`` datagrams arrives, sent 0.1 s apart."""
    with ExitStack() as stack:
        ears = stack.enter_context(lan.socket(receiver, socket.SOCK_DGRAM))
        mouth = stack.enter_context(lan.socket(sender, socket.SOCK_DGRAM))
        ears.bind(("0.0.0.0", PORT))
        ears.settimeout(0.1)
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(tries):
            try:
                mouth.sendto(b"hello", (address or receiver.address, PORT))
                return ears.recv(100) == b"hello"
            except (TimeoutError, PermissionError):  # what its own filter drops, the sender sees
                continue
    return False


def test_hosts_hear_each_other_and_broadcasts(lan: Lan) -> None:
    first, second, third = lan.hosts
    assert reaches(lan, first, second)
    assert reaches(lan, third, first, "255.255.255.255")
    assert reaches(lan, second, third, str(lan.network.broadcast_address))


def test_a_cut_separates_groups_until_it_is_healed(lan: Lan) -> None:
    first, second, third = lan.hosts
    lan.partition([[first], [second, third]])
    assert not reaches(lan, first, second, tries=TRIES_WHEN_CUT)
    assert not reaches(lan, third, first, tries=TRIES_WHEN_CUT)
    assert reaches(lan, second, third)
    lan.heal()
    assert reaches(lan, first, second)


def test_a_silent_host_neither_hears_nor_is_heard(lan: Lan) -> None:
    first, second, _ = lan.hosts
    lan.silence(first)
    assert not reaches(lan, first, second, tries=TRIES_WHEN_CUT)
    assert not reaches(lan, second, first, tries=TRIES_WHEN_CUT)
    lan.hear_again(first)
    assert reaches(lan, second, first)


def test_an_unplugged_host_is_alone(lan: Lan) -> None:
    first, second, third = lan.hosts
    lan.unplug(first)
    assert not reaches(lan, first, second, tries=TRIES_WHEN_CUT)
    assert reaches(lan, second, third)
    lan.heal()
    assert reaches(lan, first, second)


def test_losing_everything_loses_everything_and_losing_nothing_nothing(lan: Lan) -> None:
    first, second, _ = lan.hosts
    lan.drop(second, 1.0)
    assert not reaches(lan, first, second, tries=TRIES_WHEN_CUT)
    assert reaches(lan, second, first)
    lan.drop(second, 0.0)
    assert reaches(lan, first, second)


def test_what_a_host_sends_is_counted_as_frames(lan: Lan) -> None:
    first, second, _ = lan.hosts
    assert reaches(lan, first, second)  # ARP is done
    before = lan.counters()[first]
    with lan.socket(first, socket.SOCK_DGRAM) as mouth:
        for _ in range(10):
            mouth.sendto(bytes(100), (second.address, PORT))
    sent = lan.counters()[first] - before
    assert sent.packets >= 10
    assert sent.bytes >= 10 * (100 + 8 + 20 + 14)  # UDP, IP, Ethernet


def test_a_lan_takes_its_processes_and_namespaces_with_it(lan: Lan) -> None:
    with Lan(PREFIX, 1) as short:
        (host,) = short.hosts
        process = subprocess.Popen(
            short.command(host, "sh", "-c", "echo on the host; exec sleep 1000"),
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process.stdout as said:
            assert said.readline()  # it has entered the namespace, and is looked for there
        assert (NETNS_FOLDER / host.namespace).exists()
    assert process.wait(timeout=10) != 0
    assert not (NETNS_FOLDER / host.namespace).exists()


def test_what_a_killed_run_left_is_removed_by_the_next(lan: Lan) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    leftover = f"{PREFIX}-{gone.pid}-0-h0"
    ours = f"{PREFIX}-{os.getpid()}-0-other"
    for name in (leftover, ours):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with Lan(PREFIX, 1):
            assert not (NETNS_FOLDER / leftover).exists()
            assert (NETNS_FOLDER / ours).exists()
    finally:
        subprocess.run(["ip", "netns", "delete", ours], check=True)
