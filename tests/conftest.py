"""In continuous integration, where everything is installed, no test may be skipped."""

import os
from collections.abc import Generator
from typing import Final

import pytest

LAB_REQUIRED: Final = "BEIRAN_LAB_REQUIRED"
"""Set (to 1, by ``.ci/run``): a test that would be skipped fails, and says why it was."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = os.environ.get(LAB_REQUIRED, "") not in ("", "0")
    if required and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{LAB_REQUIRED} is set, and {item.nodeid} would be skipped: {reason}"
    return report
