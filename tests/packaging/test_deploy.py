"""systemd accepts the unit, and the unit starts the program that the README installs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent.parent
UNIT: Final = ROOT / "deploy" / "beirand.service"
EXEC_START: Final = re.compile(r"^ExecStart=(\S+)(.*)$", re.MULTILINE)


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    # A program that is not there would be a fault, so any other stands in for it.
    unit = tmp_path / UNIT.name
    unit.write_text(EXEC_START.sub(f"ExecStart={sys.executable}", UNIT.read_text()))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_unit_starts_what_the_readme_installs_and_leaves_all_settings_to_the_file() -> None:
    program, arguments = EXEC_START.findall(UNIT.read_text())[0]
    assert Path(program).name == "beirand"
    assert f"{Path(program).parent}/pip install" in (ROOT / "README.md").read_text()
    assert arguments == ""
