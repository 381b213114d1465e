"""The gossip socket, on real sockets."""

import errno
import socket
from collections.abc import Callable

import pytest
import trio

from beiran.errors import LocalError
from beiran.gossip.membership.member import Address
from beiran.net.udp import DATAGRAMS_PER_WAKEUP, Datagram, UdpSocket, bind_problem, open_udp
from tests.lab.network import Lan
from tests.net.hosts import needs_root, on_host, on_new_host

LOOPBACKS = ["127.0.0.1", "::1"]


async def receive_datagrams(udp: UdpSocket, count: int) -> list[Datagram]:
    datagrams: list[Datagram] = []
    with trio.fail_after(10):
        while len(datagrams) < count:
            datagrams += (await udp.receive())[0]
    return datagrams


async def receive_refusals(udp: UdpSocket, count: int = 1) -> list[Address]:
    refusals: list[Address] = []
    with trio.fail_after(10):
        while len(refusals) < count:
            refusals += (await udp.receive())[1]
    return refusals


def free_address(host: str) -> Address:
    """An address on which no process listens."""
    with open_udp(host, 0) as udp:
        return udp.address


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_a_datagram_arrives_with_the_address_to_answer_to(host: str) -> None:
    with open_udp(host, 0) as here, open_udp(host, 0) as there:
        assert here.send(b"hello", there.address)
        assert await receive_datagrams(there, 1) == [Datagram(b"hello", here.address)]
        assert there.send(b"hello yourself", here.address, confirmed=True)
        assert await receive_datagrams(here, 1) == [Datagram(b"hello yourself", there.address)]
        assert (here.counters.sent, here.counters.sent_bytes) == (1, 5)
        assert (here.counters.received, here.counters.received_bytes) == (1, 14)


async def test_a_socket_on_all_addresses_of_both_kinds_speaks_both() -> None:
    with open_udp("::", 0) as both:
        for host in LOOPBACKS:
            with open_udp(host, 0) as there:
                assert there.send(b"hello", Address(host, both.address.port))
                assert await receive_datagrams(both, 1) == [Datagram(b"hello", there.address)]
                assert both.send(b"yes", there.address)
                [answer] = await receive_datagrams(there, 1)
                assert answer == Datagram(b"yes", Address(host, both.address.port))


async def test_one_wakeup_takes_what_is_there_up_to_a_limit() -> None:
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there:
        payloads = [b"%d" % number for number in range(DATAGRAMS_PER_WAKEUP + 1)]
        for payload in payloads:
            here.send(payload, there.address)
        first, _ = await there.receive()
        assert [datagram.data for datagram in first] == payloads[:DATAGRAMS_PER_WAKEUP]
        second, _ = await there.receive()
        assert [datagram.data for datagram in second] == payloads[DATAGRAMS_PER_WAKEUP:]


@pytest.mark.parametrize("size", [0, 1400, 1401, 65_507])
async def test_datagrams_of_any_size_arrive_whole(size: int) -> None:
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there:
        assert here.send(b"x" * size, there.address)
        assert await receive_datagrams(there, 1) == [Datagram(b"x" * size, here.address)]


async def test_a_datagram_too_large_for_udp_is_counted() -> None:
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there:
        assert not here.send(b"x" * 65_508, there.address)
        assert (here.counters.sent, here.counters.unsent) == (0, 1)
        here.send(b"next", there.address)
        assert [datagram.data for datagram in await receive_datagrams(there, 1)] == [b"next"]


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_a_refusal_names_the_refusing_address(bind: str) -> None:
    closed = free_address("::1" if bind == "::1" else "127.0.0.1")
    with open_udp(bind, 0) as udp:
        assert udp.send(b"hello?", closed)
        assert await receive_refusals(udp) == [closed]
        assert udp.counters.refused == 1


async def test_a_refusal_does_not_cost_the_datagram_that_is_sent_next() -> None:
    closed = free_address("127.0.0.1")
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there:
        here.send(b"hello?", closed)
        # On loopback the refusal is there before send returns, and waits as the socket's error.
        assert here.send(b"hello", there.address)
        assert [datagram.data for datagram in await receive_datagrams(there, 1)] == [b"hello"]
        assert await receive_refusals(here) == [closed]


async def test_refusals_and_datagrams_come_in_one_wakeup() -> None:
    first, second = free_address("127.0.0.1"), free_address("127.0.0.1")
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there:
        there.send(b"one", here.address)
        here.send(b"hello?", first)
        here.send(b"hello?", second)
        there.send(b"two", here.address)
        datagrams, refusals = await here.receive()
        assert [datagram.data for datagram in datagrams] == [b"one", b"two"]
        assert refusals == [first, second]
        # Nothing is left over that would wake the agent for nothing.
        with trio.move_on_after(0.05) as quiet:
            await here.receive()
        assert quiet.cancelled_caught


async def test_a_listener_that_ends_is_refused_from_then_on() -> None:
    with open_udp("127.0.0.1", 0) as here:
        with open_udp("127.0.0.1", 0) as there:
            here.send(b"hello", there.address)
            await receive_datagrams(there, 1)
        here.send(b"still there?", there.address)
        assert await receive_refusals(here) == [there.address]


@pytest.mark.parametrize(
    "to",
    [
        Address("localhost", 8888),
        Address("", 8888),
        Address("127.1", 8888),
        Address("127.0.0.1", 0),
        Address("127.0.0.1", 65_536),
        Address("127.0.0.1", -1),
        Address("::1", 8888),
        Address("256.0.0.1", 8888),
    ],
)
async def test_a_name_is_counted_and_not_looked_up(to: Address) -> None:
    with open_udp("127.0.0.1", 0) as udp:
        assert not udp.send(b"hello", to)
        assert (udp.counters.sent, udp.counters.unsent) == (0, 1)


@pytest.mark.parametrize("host", ["localhost", "::1::", "fe80::1%eth0", "fe80::1%", "::ffff:1"])
async def test_an_ipv6_socket_never_raises_for_an_odd_address(host: str) -> None:
    with open_udp("::1", 0) as udp:
        udp.send(b"hello", Address(host, 8888))
        assert udp.counters.sent + udp.counters.unsent == 1


@needs_root
@pytest.mark.lab
def test_a_host_without_a_network_counts_what_it_cannot_send() -> None:
    async def send() -> None:
        with open_udp("0.0.0.0", 0) as udp:
            assert not udp.send(b"hello", Address("10.77.0.9", 8888))
            assert udp.counters.unsent == 1

    on_new_host(lambda: trio.run(send))


@needs_root
@pytest.mark.lab
def test_a_full_interface_loses_datagrams_and_they_are_counted() -> None:
    async def send() -> None:
        with open_udp("0.0.0.0", 0) as udp:
            for _ in range(100):
                udp.send(b"x" * 60_000, Address("10.77.0.9", 8888))
            assert udp.counters.sent + udp.counters.unsent == 100
            assert udp.counters.full == udp.counters.unsent > 0

    on_new_host(
        lambda: trio.run(send),
        "ip link add eth0 type veth peer name switch",
        "ip address add 10.77.0.1/24 dev eth0",
        "ip link set switch up",
        "ip link set eth0 up",
        "ip neighbour add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0",
        # So slow that what is sent stays in the socket's send buffer.
        "tc qdisc add dev eth0 root tbf rate 8kbit burst 2kb limit 10mb",
    )


@needs_root
@pytest.mark.lab
async def test_another_host_refuses_and_a_silent_one_does_not() -> None:
    with Lan("bnet", 3) as lan:
        here, there, silent = lan.hosts
        lan.silence(silent)
        with on_host(here.namespace, _opener("0.0.0.0")) as udp:
            udp.send(b"hello?", Address(silent.address, 8888))
            udp.send(b"hello?", Address(there.address, 8888))
            assert await receive_refusals(udp) == [Address(there.address, 8888)]
            assert udp.counters.unreachable == 0


@needs_root
@pytest.mark.lab
async def test_a_host_that_is_not_there_is_counted_as_unreachable() -> None:
    with Lan("bnet", 1) as lan:
        [here] = lan.hosts
        with on_host(here.namespace, _opener("0.0.0.0")) as udp:
            udp.send(b"hello?", Address(str(lan.network[9]), 8888))
            with trio.fail_after(15):  # the kernel asks ARP three times, a second each
                assert await udp.receive() == ([], [])
            assert (udp.counters.unreachable, udp.counters.refused) == (1, 0)


def _opener(bind: str) -> Callable[[], UdpSocket]:
    return lambda: open_udp(bind, 0)


@needs_root
@pytest.mark.lab
def test_a_link_local_address_comes_with_its_link_and_is_answered_there() -> None:
    async def talk() -> None:
        with open_udp("::", 0) as here, open_udp("::", 0) as there:
            zone = socket.if_nametoindex("eth0")
            address = Address(f"fe80::1%{zone}", there.address.port)
            assert here.send(b"hello", address)
            [hello] = await receive_datagrams(there, 1)
            assert hello.source == Address(f"fe80::1%{zone}", here.address.port)
            assert there.send(b"hello yourself", hello.source)
            assert await receive_datagrams(here, 1) == [Datagram(b"hello yourself", address)]

    on_new_host(
        lambda: trio.run(talk),
        "ip link add eth0 type veth peer name switch",
        "ip link set switch up",
        "ip link set eth0 up",
        "ip address add fe80::1/64 dev eth0 nodad",
    )


async def test_closing_wakes_a_waiting_receive() -> None:
    udp = open_udp("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await udp.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        udp.close()
    udp.close()
    with pytest.raises(trio.ClosedResourceError):
        udp.send(b"x", Address("127.0.0.1", 8888))
    with pytest.raises(trio.ClosedResourceError):
        await udp.receive()


async def test_datagrams_that_do_not_fit_are_dropped_and_counted() -> None:
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there:
        assert there.kernel_drops() == 0
        for _ in range(2 * there.receive_buffer_bytes // 60_000 + 10):
            here.send(b"x" * 60_000, there.address)
        assert there.kernel_drops() > 0


async def test_the_receive_buffer_is_as_large_as_the_kernel_grants() -> None:
    with open_udp("127.0.0.1", 0) as udp:
        assert udp.receive_buffer_bytes >= 100_000


async def test_a_port_in_use_is_one_clear_line() -> None:
    with open_udp("127.0.0.1", 0) as taken:
        port = taken.address.port
        with pytest.raises(LocalError) as caught:
            open_udp("127.0.0.1", port)
    assert str(caught.value) == (
        f"UDP port {port} is in use by another program (another beirand?); "
        "choose another with --port"
    )


async def test_an_address_of_another_host_is_one_clear_line() -> None:
    with pytest.raises(LocalError, match=r"^this host has no address 198\.51\.100\.7; .*--bind$"):
        open_udp("198.51.100.7", 0)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "may not be used by this user"), (errno.EAFNOSUPPORT, "cannot open UDP port")],
)
def test_other_reasons_not_to_bind_are_one_line(number: int, words: str) -> None:
    line = bind_problem(OSError(number, "why"), "::", 88, "--port")
    assert words in line
    assert "\n" not in line


async def test_a_socket_is_not_shared_with_another_agent() -> None:
    with open_udp("127.0.0.1", 0) as first, socket.socket(type=socket.SOCK_DGRAM) as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            second.bind(first.address)
