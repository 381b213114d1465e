"""A real registry (Debian's docker-registry) on loopback."""

import http.client
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Final

from tests.requirements import missing

START_TIMEOUT_S: Final = 20.0

_CONFIG: Final = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"{tls}}}
"""
_TLS: Final = ', tls: {{certificate: "{}", key: "{}"}}'
_AUTH: Final = """\
auth: {{htpasswd: {{realm: test, path: "{}"}}}}
"""


def missing_for_registry() -> str:
    """Why no registry can be started here; empty when it can."""
    return missing("docker-registry")


@dataclass(frozen=True)
class Registry:
    """A registry that answers HTTP, with or without TLS, at ``address`` (``127.0.0.1:PORT``)."""

    address: str
    pid: int


@contextmanager
def start_registry(
    folder: Path, *, htpasswd: str = "", certificate: tuple[Path, Path] | None = None
) -> Iterator[Registry]:
    """A registry with its blobs under ``folder``, stopped on the way out.

    Args:
      htpasswd: ``USER:BCRYPT`` of each user with access; empty for public.
      certificate: for TLS, and its key.
    """
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    config = folder / "registry.yml"
    tls = _TLS.format(*certificate) if certificate else ""
    text = _CONFIG.format(folder=folder, address=address, tls=tls)
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd + "\n")
        text += _AUTH.format(folder / "htpasswd")
    config.write_text(text)
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GOMAXPROCS": "1"},
    )
    try:
        _wait(port, process)
        yield Registry(address, process.pid)
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            # Without credentials the answer is 401, and 400 where it should have been TLS.
            if connection.getresponse().status in (200, 400, 401):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        finally:
            connection.close()
