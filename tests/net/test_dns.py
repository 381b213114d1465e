"""Names become addresses: against a real DNS server on loopback."""

import subprocess
import sys

import trio

from beiran.gossip.membership.member import Address
from beiran.net.dns import Resolved, resolve_peers
from tests.net.dns_server import Zone, open_dns_server

PORT = 8888


async def resolve(zone: Zone, *names: str, timeout_s: float = 10.0) -> Resolved:
    async with open_dns_server(zone) as server:
        return await resolve_peers(names, PORT, timeout_s=timeout_s, nameserver=server.address)
    raise AssertionError


async def test_every_address_record_of_a_name_is_an_agent() -> None:
    # As Docker Swarm answers for tasks.NAME.
    zone = {
        ("tasks.beiran.", "A"): ["10.0.1.3", "10.0.1.4"],
        ("tasks.beiran.", "AAAA"): ["FD00:0::3"],
    }
    resolved = await resolve(zone, "tasks.beiran")
    assert set(resolved.addresses) == {
        Address("10.0.1.3", PORT),
        Address("10.0.1.4", PORT),
        Address("fd00::3", PORT),
    }
    assert resolved.problems == []


async def test_a_port_may_follow_the_name() -> None:
    zone = {("agents.test.", "A"): ["10.0.1.3"]}
    resolved = await resolve(zone, "agents.test:9001")
    assert resolved == Resolved([Address("10.0.1.3", 9001)], [])


async def test_srv_records_have_port_and_target() -> None:
    # As a headless Kubernetes service answers.
    zone = {
        ("_gossip._udp.beiran.test.", "SRV"): [
            "0 50 9001 a.beiran.test.",
            "10 50 9002 b.beiran.test.",
        ],
        ("a.beiran.test.", "A"): ["10.0.1.3"],
        ("b.beiran.test.", "AAAA"): ["fd00::4"],
    }
    resolved = await resolve(zone, "_gossip._udp.beiran.test")
    assert set(resolved.addresses) == {Address("10.0.1.3", 9001), Address("fd00::4", 9002)}
    assert resolved.problems == []


async def test_a_plain_name_with_srv_records_gives_those_first() -> None:
    # As Consul answers for NAME.service.consul.
    zone = {
        ("beiran.test.", "SRV"): ["0 0 9001 a.test."],
        ("a.test.", "A"): ["10.0.1.3"],
        ("beiran.test.", "A"): ["10.0.1.4"],
    }
    resolved = await resolve(zone, "beiran.test")
    assert resolved.addresses == [Address("10.0.1.3", 9001), Address("10.0.1.4", PORT)]


async def test_a_service_that_is_absent_by_its_srv_record_has_no_address() -> None:
    zone = {("_gossip._udp.test.", "SRV"): ["0 0 0 ."]}
    resolved = await resolve(zone, "_gossip._udp.test")
    assert resolved.addresses == []
    assert [problem.name for problem in resolved.problems] == ["_gossip._udp.test"]


async def test_an_answer_too_large_for_a_datagram_comes_over_tcp() -> None:
    addresses = [f"10.0.{host // 250}.{1 + host % 250}" for host in range(500)]
    zone = {("tasks.beiran.", "A"): addresses}
    async with open_dns_server(zone) as server:
        resolved = await resolve_peers(
            ["tasks.beiran"], PORT, timeout_s=10, nameserver=server.address
        )
    assert {address.host for address in resolved.addresses} == set(addresses)
    assert ("tcp", "tasks.beiran.", "A") in server.asked


async def test_a_server_that_never_answers_for_some_kinds_delays_little() -> None:
    zone = {
        ("a.test.", "A"): ["10.0.1.3"],
        ("a.test.", "AAAA"): None,
        ("a.test.", "SRV"): None,
    }
    with trio.fail_after(30):
        resolved = await resolve(zone, "a.test", timeout_s=60)
    assert resolved == Resolved([Address("10.0.1.3", PORT)], [])


async def test_names_the_dns_does_not_know_are_asked_of_this_host() -> None:
    resolved = await resolve({}, "localhost:9001")
    assert resolved.problems == []
    assert resolved.addresses
    assert set(resolved.addresses) <= {Address("127.0.0.1", 9001), Address("::1", 9001)}


async def test_an_unknown_name_is_a_problem_and_the_others_are_found() -> None:
    zone = {("a.test.", "A"): ["10.0.1.3"], ("b.test.", "A"): ["10.0.1.3"]}
    resolved = await resolve(zone, "a.test", "unknown.invalid", "b.test")
    assert resolved.addresses == [Address("10.0.1.3", PORT)]
    assert [str(problem) for problem in resolved.problems] == [
        "unknown.invalid: the DNS knows no such name"
    ]


async def test_a_silent_dns_server_is_a_problem_within_the_time() -> None:
    zone: Zone = {("a.invalid.", kind): None for kind in ("A", "AAAA", "SRV")}
    with trio.fail_after(30):
        resolved = await resolve(zone, "a.invalid", timeout_s=0.5)
    assert resolved.addresses == []
    [problem] = resolved.problems
    assert problem.name == "a.invalid"
    assert problem.reason in ("the DNS does not answer", "no answer in time")


async def test_no_dns_server_at_all_is_a_problem() -> None:
    async with open_dns_server({}) as server:
        closed = server.address
    resolved = await resolve_peers(["a.invalid"], PORT, timeout_s=1, nameserver=closed)
    assert resolved.addresses == []
    assert len(resolved.problems) == 1


async def test_text_that_is_no_name_is_a_problem() -> None:
    resolved = await resolve({}, "a..b", "x" * 64 + ".invalid", "")
    assert resolved.addresses == []
    assert [problem.name for problem in resolved.problems] == ["a..b", "x" * 64 + ".invalid", ""]
    assert all("\n" not in problem.reason for problem in resolved.problems)


async def test_addresses_need_no_server() -> None:
    names = ["10.0.1.3", "10.0.1.3:9001", "FD00::1", "[fd00::1]:9001", "[fd00::2]"]
    async with open_dns_server({}) as server:
        resolved = await resolve_peers(names, PORT, timeout_s=10, nameserver=server.address)
    assert resolved.addresses == [
        Address("10.0.1.3", PORT),
        Address("10.0.1.3", 9001),
        Address("fd00::1", PORT),
        Address("fd00::1", 9001),
        Address("fd00::2", PORT),
    ]
    assert server.asked == []


def test_only_resolving_imports_dnspython() -> None:
    program = "import sys, beiran.net.dns; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
