"""The log: what goes into it."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys
from beiran.agent.log_format import set_up_logging
from beiran.settings.settings import load_settings

set_up_logging(load_settings({"engine": "none", "config_dir": sys.argv[1]}, {}))
logging.getLogger("beiran.pull").info("ours")
for library in ("httpx2", "httpcore2.connection", "urllib3", "docker", "trio-websocket"):
    logging.getLogger(library).info("a request")
    logging.getLogger(library).warning("a warning")
"""


def test_libraries_log_warnings_only(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, capture_output=True, text=True
    )
    lines = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    assert lines == ["info ours", *["warning a warning"] * 5]
