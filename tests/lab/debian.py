"""Debian systems, each in a folder: made by debootstrap once, kept for the runs that follow.

The lab runs a newer Docker Engine in one (``engines.py``). CI runs the tests and the wheel in
copies of them (``.ci/in-debian``); for it, ``python tests/lab/debian.py SUITE`` prints the folder,
and needs nothing but Python.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

MIRROR: Final = "http://deb.debian.org/debian"
PACKAGES: Final = {
    # What docs and README ask for before the first command, and no more: no compiler, no iproute2.
    "bookworm": ("make", "python3", "python3-venv"),
    # A newer Python (3.13), and Docker 26.1 for the lab.
    "trixie": (
        "ca-certificates",
        "containerd",
        "docker.io",
        "iptables",
        "make",
        "python3",
        "python3-venv",
    ),
}


def debian_folder(suite: str) -> Path:
    """The Debian of that name, made on first use (two minutes); not to be written to.

    It is kept below ``BEIRAN_LAB_CACHE``, and fetched from ``BEIRAN_LAB_MIRROR``.
    """
    packages = ",".join(PACKAGES[suite])
    cache = Path(os.environ.get("BEIRAN_LAB_CACHE", "/var/cache/beiran-lab"))
    cache.mkdir(parents=True, exist_ok=True)
    # Another list of packages is another folder.
    made = cache / f"{suite}-{hashlib.sha256(packages.encode()).hexdigest()[:8]}"
    with (cache / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_dir():
            return made
        making = cache / f"{suite}.making"
        shutil.rmtree(making, ignore_errors=True)
        mirror = os.environ.get("BEIRAN_LAB_MIRROR", MIRROR)
        command = ["debootstrap", "--variant=minbase", f"--include={packages}"]
        subprocess.run(
            [*command, suite, str(making), mirror],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        making.rename(made)
    return made


if __name__ == "__main__":
    print(debian_folder(sys.argv[1]))
