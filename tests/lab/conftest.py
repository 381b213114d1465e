"""Fixtures of the lab. Its tests are skipped, with the reason, where a program is missing."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.lab.agents import Agents, program
from tests.lab.engines import missing_for_engines
from tests.lab.network import Lan
from tests.requirements import missing

NAMESPACE_PREFIX: Final = "brnlab"
OpenAgents = Callable[[int], Agents]


def missing_for_network() -> str:
    """Why there can be no lab here, in one line; empty when there can."""
    if reason := missing("ip", "tc", "nsenter", "iptables-restore", root=True):
        return reason
    if not program("beirand").exists():
        return "needs beirand beside the interpreter (pip install -e .)"
    return ""


_FAILED: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixtures know whether their test failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture
def open_agents(request: pytest.FixtureRequest) -> Iterator[OpenAgents]:
    """Open a LAN of the given number of hosts, to start agents on. Show their logs on failure."""
    if reason := missing_for_network():
        pytest.skip(reason)
    opened: list[Agents] = []
    with ExitStack() as stack:

        def open_on(hosts: int) -> Agents:
            lan = stack.enter_context(Lan(NAMESPACE_PREFIX, hosts))
            opened.append(stack.enter_context(Agents(lan)))
            return opened[-1]

        yield open_on
        if request.node.stash.get(_FAILED, False):
            for agents in opened:
                agents.print_logs()


@pytest.fixture
def real_engines() -> None:
    """Asks for Docker Engines."""
    if reason := missing_for_engines():
        pytest.skip(reason)
