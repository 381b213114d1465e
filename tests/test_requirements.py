"""Tests that cannot run here are skipped, and one line says what they lack."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.requirements import PACKAGES, missing, summary

ROOT: Final = Path(__file__).parent.parent


@pytest.fixture
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_programs")
def test_a_missing_program_is_named_with_its_package() -> None:
    assert missing("tc") == "needs the program tc (Debian: iproute2)"


def test_nothing_is_missing_where_nothing_is_asked() -> None:
    assert missing() == ""


def test_a_program_that_no_package_is_known_for_is_an_error(no_programs: None) -> None:
    with pytest.raises(KeyError):
        missing("no-such-program")


def test_no_skips_need_no_line() -> None:
    assert summary([]) == ""


def test_the_line_names_each_package_once() -> None:
    said = summary(
        [
            "needs the program tc (Debian: iproute2)",
            "needs the program ip (Debian: iproute2)",
            "needs the program curl (Debian: curl)",
            "no IPv6 here",
        ]
    )
    assert said.startswith(
        "4 tests were skipped, for want of: the Debian packages curl iproute2; no IPv6 here. "
    )
    assert "\n" not in said


@pytest.mark.usefixtures("no_programs")
def test_without_root_the_packages_that_root_would_miss_are_named_too() -> None:
    assert summary(["needs root"]).startswith(
        f"1 test was skipped, for want of: root; the Debian packages "
        f"{' '.join(sorted(set(PACKAGES.values())))}. "
    )


def test_the_packages_are_printed_without_any_package_of_python() -> None:
    script = ROOT / "tests" / "requirements.py"
    printed = subprocess.run(
        [sys.executable, "-I", "-S", str(script)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert printed == sorted({"ca-certificates", *PACKAGES.values()})
