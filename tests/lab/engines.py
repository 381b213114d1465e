"""Real Docker Engines side by side on one machine, each with a folder and mounts of its own.

Everything an engine mounts is in its mount namespace, which ends with its last process: nothing
stays mounted, whatever happens to the test.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tests.lab.debian import debian_folder
from tests.requirements import missing

Store = Literal["overlay2", "containerd"]

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
SYSTEM_CONTAINERD: Final = Path("/run/containerd/containerd.sock")
_PLAIN_NETWORK: Final = ("--iptables=false", "--ip6tables=false", "--bridge=none")


def missing_for_engines(store: Store = "overlay2") -> str:
    """Why no engine can be started here, in one line; empty when it can."""
    newer_debian = ("debootstrap",) if store == "containerd" else ()
    return missing("dockerd", "docker", "unshare", "nsenter", *newer_debian, root=True)


@dataclass
class RunningEngine:
    """A Docker Engine that answers at ``socket_path``; ``pid`` is its own."""

    socket_path: str
    data_root: Path
    store: Store
    log: Path
    _command: list[str]
    _exec_root: Path
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the engine is stopped"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "GOMAXPROCS": os.environ.get("GOMAXPROCS", "2")},
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(self.socket_path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("dockerd did not start:\n" + self.log.read_text()[-3000:])
            time.sleep(0.05)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop it and wait until it and its containerd are gone. Nothing happens when it is."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal_number)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for straggler in _stragglers(self._exec_root / "x"):
            with suppress(ProcessLookupError):
                os.kill(straggler, signal.SIGKILL)
        # Where no process reaps orphans, a killed containerd looks alive to the next dockerd.
        shutil.rmtree(self._exec_root / "x", ignore_errors=True)
        Path(self.socket_path).unlink(missing_ok=True)
        (self._exec_root / "docker.pid").unlink(missing_ok=True)


def _answers(socket_path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(socket_path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in connection.recv(100)
        except OSError:
            return False


def _stragglers(exec_root: Path) -> list[int]:
    """The processes of a killed dockerd: its containerd, shims and containers, children first.

    The first two have its exec root in their arguments. No other process has.
    """
    parents: dict[int, int] = {}
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                # Fields after the name in parentheses: state, parent.
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(after_name[1])
                if os.fsencode(exec_root) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    for ancestor in found:
        found += [pid for pid, parent in parents.items() if parent == ancestor and pid not in found]
    return found[::-1]


@contextmanager
def start_dockerd(
    folder: Path,
    *,
    netns: str | None = None,
    store: Store = "overlay2",
    extra_args: Sequence[str] = (),
) -> Iterator[RunningEngine]:
    """A Docker Engine with its data under ``folder``, stopped and cleared away on the way out.

    Args:
      folder: kept by the caller; the engine's data root is made in it and removed.
      netns: name of the network namespace to run in (``ip netns``); None for this one.
      store: ``overlay2`` is the graph driver of the Docker of this machine, ``containerd`` the
        image store of Docker 26.1 in a Debian 13 chroot.
      extra_args: further options of dockerd.
    """
    folder = folder.resolve()
    data_root = folder / "docker"
    data_root.mkdir(parents=True)
    # Unix sockets have paths of at most 107 bytes, which a test's folder may exceed.
    exec_root = Path(tempfile.mkdtemp(prefix="beiran-lab-", dir="/tmp"))
    command = ["unshare", "--mount", "--propagation", "private"]
    if netns is not None:
        command = ["nsenter", f"--net=/var/run/netns/{netns}", *command]
    dockerd = ["dockerd", "--data-root", str(data_root), "--exec-root", str(exec_root / "x")]
    socket_path = str(exec_root / "docker.sock")
    dockerd += ["-H", f"unix://{socket_path}", "-p", str(exec_root / "docker.pid")]
    dockerd += [*_PLAIN_NETWORK, *extra_args]
    # dockerd looks up the registries' names even where a mirror has all: with a name server that
    # does not answer each pull would wait 10 s for that.
    resolver = exec_root / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    if store == "containerd":
        config = exec_root / "daemon.json"
        config.write_text('{"features": {"containerd-snapshotter": true}}\n')
        dockerd += ["--config-file", str(config)]
        command += _in_chroot(debian_folder("trixie"), [data_root, exec_root], dockerd, resolver)
    else:
        config = exec_root / "daemon.json"
        config.write_text("{}\n")
        dockerd += ["--config-file", str(config), "--storage-driver=overlay2"]
        # A containerd of the machine would be shared by all engines: hide it, so that each
        # dockerd starts its own.
        hide = f"test ! -d {SYSTEM_CONTAINERD.parent} || mount -t tmpfs none "
        hide += f"{SYSTEM_CONTAINERD.parent}; mount --bind {resolver} /etc/resolv.conf; "
        hide += 'exec "$@"'
        command += ["sh", "-ec", hide, "sh", *dockerd]
    engine = RunningEngine(
        socket_path=socket_path,
        data_root=data_root,
        store=store,
        log=exec_root / "dockerd.log",
        _command=command,
        _exec_root=exec_root,
    )
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(exec_root, ignore_errors=True)
        shutil.rmtree(data_root, ignore_errors=True)


def _in_chroot(
    root: Path, shared: Sequence[Path], program: Sequence[str], resolver: Path
) -> list[str]:
    """A command that runs ``program`` in ``root``, with ``shared`` at the same paths there.

    It must run in a mount namespace of its own, for it mounts.
    """
    # A chroot's "/" that is no mount point of its own cannot be remounted, as dockerd does.
    steps = [f"mount --bind {root} {root}"]
    steps += [f"mount --rbind /{name} {root}/{name}" for name in ("proc", "sys", "dev")]
    steps.append(f"mount -t tmpfs none {root}/run")
    steps.append(f"mount -t tmpfs none {root}/tmp")
    # Where the shared folders are made must not be the chroot itself, which others use too.
    for top in sorted({Path(*path.parts[:2]) for path in shared} - {Path("/tmp"), Path("/run")}):
        steps.append(f"mkdir -p {root}{top}")
        steps.append(f"mount -t tmpfs none {root}{top}")
    for path in shared:
        steps += [f"mkdir -p {root}{path}", f"mount --bind {path} {root}{path}"]
    steps.append(f"mount --bind {resolver} {root}/etc/resolv.conf")
    steps.append(f'exec chroot {root} "$@"')
    return ["sh", "-ec", "\n".join(steps), "sh", *program]
