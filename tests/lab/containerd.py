"""A real containerd on a host of a ``Lan``, and ``ctr`` on it, which pulls as ``hosts.toml`` says.

What it mounts is in a mount namespace of its own, which ends with it.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.lab.network import Host, Lan
from tests.requirements import missing

START_S_MAX: Final = 30.0
CTR_S_MAX: Final = 60.0
STOP_S_MAX: Final = 10.0

# What a pull does not need, and would complain of on most machines.
_CONFIG: Final = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{folder}/socket"
"""


def missing_for_containerd() -> str:
    """Why none can be started here, in one line; empty when it can."""
    return missing("containerd", "ctr", "unshare")


@dataclass(frozen=True)
class Containerd:
    """One that runs. Its ``ctr`` asks registries from the same host.

    Attributes:
      hosts_dir: folder of ``REGISTRY/hosts.toml`` and ``_default/hosts.toml``.
    """

    lan: Lan
    host: Host
    folder: Path

    @property
    def hosts_dir(self) -> Path:
        return self.folder / "certs.d"

    def set_hosts(self, registry: str, text: str) -> None:
        """Write ``hosts.toml`` for a registry; ``_default`` is for all that have none."""
        folder = self.hosts_dir / registry
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(text)

    def ctr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``ctr``."""
        done = subprocess.run(
            self.lan.command(self.host, "ctr", "--address", f"{self.folder}/socket", *words),
            capture_output=True,
            text=True,
            timeout=CTR_S_MAX,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"ctr {' '.join(words)}: {done.stderr[-2000:]}")
        return done

    def pull(self, name: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``ctr images pull`` as ``hosts_dir`` says."""
        return self.ctr("images", "pull", "--hosts-dir", str(self.hosts_dir), name, check=check)

    def digest(self, name: str) -> str:
        """The digest of what an image's name means."""
        rows = self.ctr("images", "ls", f"name=={name}").stdout.splitlines()[1:]
        (row,) = [line.split() for line in rows]
        return row[2]

    def is_whole(self, name: str) -> bool:
        """Whether all blobs of an image are there, and it is unpacked."""
        rows = self.ctr("images", "check", f"name=={name}").stdout.splitlines()[1:]
        (row,) = [line.split() for line in rows]
        return row[3] == "complete" and row[-1] == "true"

    def blob(self, digest: str) -> Any:
        """A manifest or config of its content store."""
        return msgspec.json.decode(self.ctr("content", "get", digest).stdout)

    def diff_ids(self, name: str) -> list[str]:
        """The layers of an image, by its config."""
        manifest = self.blob(self.digest(name))
        ids: list[str] = self.blob(manifest["config"]["digest"])["rootfs"]["diff_ids"]
        return ids


@contextmanager
def start_containerd(lan: Lan, host: Host) -> Iterator[Containerd]:
    """A containerd on ``host``, ended and cleared away on the way out."""
    # Unix sockets have paths of at most 107 bytes, which a test's folder may exceed.
    folder = Path(tempfile.mkdtemp(prefix="beiran-lab-", dir="/tmp"))
    (folder / "config.toml").write_text(_CONFIG.format(folder=folder))
    words = ["unshare", "--mount", "--propagation", "private"]
    words += ["containerd", "--config", str(folder / "config.toml"), "--log-level", "warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            lan.command(host, *words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": os.environ.get("GOMAXPROCS", "2")},
        )
    containerd = Containerd(lan, host, folder)
    try:
        deadline = time.monotonic() + START_S_MAX
        while containerd.ctr("version", check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("containerd did not start:\n" + (folder / "log").read_text())
            time.sleep(0.05)
        yield containerd
    finally:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
