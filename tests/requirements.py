"""What the tests need beside Python, and which Debian package brings it.

Tests name programs by ``@pytest.mark.needs("skopeo")`` (``root=True`` for root), fixtures ask
``missing``. Where something is missing they are skipped, and ``tests/conftest.py`` says so in one
line at the end. Run as a script, with nothing but Python, this prints the packages for
``make test-all`` to install.
"""

import os
import re
import shutil
from collections.abc import Iterable
from typing import Final

PACKAGES: Final = {
    "busybox": "busybox-static",
    "containerd": "containerd",
    "ctr": "containerd",
    "curl": "curl",
    "debootstrap": "debootstrap",
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "serf": "serf",
    "skopeo": "skopeo",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "systemd-analyze": "systemd",
    "tc": "iproute2",
    "unshare": "util-linux",
}
"""The Debian package of each program that a test runs."""

CERTIFICATES: Final = "ca-certificates"
"""No program, but what debootstrap and registries are asked with."""

_PROGRAM: Final = re.compile(r"needs the program (?P<program>\S+) \(Debian: (?P<package>\S+)\)")


def missing(*programs: str, root: bool = False) -> str:
    """Why a test that needs this cannot run here, in one line; empty if it can."""
    if root and os.geteuid() != 0:
        return "needs root"
    for program in programs:
        if shutil.which(program) is None:
            return f"needs the program {program} (Debian: {PACKAGES[program]})"
    return ""


def summary(reasons: Iterable[str]) -> str:
    """One line about skipped tests, from the reason of each; empty for none."""
    reasons = list(reasons)
    if not reasons:
        return ""
    wanted = {found["package"] for reason in reasons if (found := _PROGRAM.search(reason))}
    other = {reason for reason in reasons if not _PROGRAM.search(reason)}
    parts = []
    if "needs root" in other:
        parts.append("root")
        other.remove("needs root")
        # Without root no test has come to ask for its programs: name those that it would miss.
        wanted |= {PACKAGES[name] for name in PACKAGES if missing(name)}
    if wanted:
        parts.append(f"the Debian packages {' '.join(sorted(wanted))}")
    parts += sorted(other)
    count = "1 test was" if len(reasons) == 1 else f"{len(reasons)} tests were"
    return (
        f"{count} skipped, for want of: {'; '.join(parts)}. "
        "As root, `make test-all` installs the packages and runs every test."
    )


if __name__ == "__main__":
    print(*sorted({CERTIFICATES, *PACKAGES.values()}))
