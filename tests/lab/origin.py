"""An origin on a host of a ``Lan``: Debian's docker-registry, in its network namespace."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab.network import Host, Lan

PORT: Final = 5000
START_TIMEOUT_S: Final = 20.0


@contextmanager
def start_origin(lan: Lan, host: Host, folder: Path) -> Iterator[str]:
    """A registry with its data in ``folder``, listening on all addresses of ``host``.

    Yields: ``ADDRESS:PORT``. On ``host`` itself it is at ``127.0.0.1:PORT``, where Docker asks for
    no TLS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: ':{PORT}'}}\n"
    )
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            lan.command(host, "docker-registry", "serve", str(config)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": "1", "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        _await_listening(lan, host, process)
        yield f"{host.address}:{PORT}"
    finally:
        process.kill()
        process.wait()


def _await_listening(lan: Lan, host: Host, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with lan.socket(host, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(("127.0.0.1", PORT))
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
        time.sleep(0.02)
