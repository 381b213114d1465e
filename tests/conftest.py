"""Which tests run, in which order, and what is said of those that cannot."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.requirements import missing, summary

SIMULATIONS: Final = Path(__file__).parent / "simulations"
LAB_REQUIRED: Final = "BEIRAN_LAB_REQUIRED"
"""Set (to 1, by ``.ci/run``): a test that would be skipped fails, and says why it was."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lab comes last and stays in one process: it has the machine to itself.

    ``make test`` runs the other tests in one process a core (``--dist loadgroup``). Those of the
    simulations take about half of its time, so ``make test-fast`` leaves them out as slow.
    """
    for item in items:
        if SIMULATIONS in item.path.parents:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.xdist_group("lab"))
    items.sort(key=lambda item: item.get_closest_marker("lab") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs programs (or root) which are not here."""
    for needs in item.iter_markers("needs"):
        if reason := missing(*needs.args, **needs.kwargs):
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = os.environ.get(LAB_REQUIRED, "") not in ("", "0")
    if required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{LAB_REQUIRED} is set, and {item.nodeid} is skipped: {_reason(report)}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped, and what to install."""
    skipped = terminalreporter.stats.get("skipped", [])
    if line := summary(map(_reason, skipped)):
        terminalreporter.write_line(line, yellow=True)


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ") if ": " in text else f"no reason ({report.nodeid})"
