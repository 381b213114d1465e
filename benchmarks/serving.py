"""How fast an agent's server answers, beside Debian's docker-registry in the same run.

    python -m benchmarks.serving [--rounds N] [--megabytes N]

One file over loopback with a reader that only reads, and a small JSON answer over one kept-alive
connection. Prints medians, the CPU time that the server's process took, and ratios.
"""

import argparse
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from beiran.net.http import FileSlice, Request, Response, Route, json_response
from beiran.net.http_server import HttpCounters, serve_http
from beiran.net.listeners import open_tcp_listeners

SMALL_REQUESTS = 3000
MEGABYTE = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")


class Contestant(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    port: int
    large: str
    small: str


class Figures(NamedTuple):
    gigabytes_per_s: float
    cpu_s_per_gigabyte: float
    requests_per_s: float
    median_ms: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--megabytes", type=int, default=1024)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        trio.run(_serve, chosen.serve)
        return
    with tempfile.TemporaryDirectory(prefix="beiran-serving-") as folder, ExitStack() as stack:
        digest, blob = _write_registry(Path(folder), chosen.megabytes * MEGABYTE)
        contestants = [
            stack.enter_context(_beiran(blob)),
            stack.enter_context(_registry(Path(folder), digest)),
        ]
        figures: dict[str, list[Figures]] = {}
        for _ in range(chosen.rounds):
            for contestant in contestants:
                figures.setdefault(contestant.name, []).append(_measure(contestant))
        _print(figures)


async def _serve(path: str) -> None:
    async def large(request: Request) -> Response:
        descriptor = os.open(path, os.O_RDONLY)
        length = os.fstat(descriptor).st_size
        return Response(body=FileSlice(descriptor=descriptor, start=0, length=length))

    async def small(request: Request) -> Response:
        return json_response({})

    routes = [
        Route(method="GET", pattern="/large", handler=large),
        Route(method="GET", pattern="/small", handler=small),
    ]
    listeners = await open_tcp_listeners("127.0.0.1", 0)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve_http(listeners, routes, door="tcp", counters=HttpCounters())


@contextmanager
def _beiran(blob: Path) -> Iterator[Contestant]:
    command = [sys.executable, "-m", "benchmarks.serving", "--serve", str(blob)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield Contestant("beiran", process, port, "/large", "/small")
        finally:
            process.terminate()


@contextmanager
def _registry(folder: Path, digest: str) -> Iterator[Contestant]:
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("docker-registry is missing; on Debian: apt-get install docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    quiet = subprocess.DEVNULL
    with subprocess.Popen([program, "serve", str(settings)], stdout=quiet, stderr=quiet) as process:
        try:
            _wait_for(port)
            yield Contestant(
                "docker-registry", process, port, f"/v2/x/blobs/sha256:{digest}", "/v2/"
            )
        finally:
            process.terminate()


def _write_registry(folder: Path, size: int) -> tuple[str, Path]:
    """A registry's folder with one blob in it, and that blob in the page cache."""
    piece = os.urandom(16 * MEGABYTE)
    hasher = hashlib.sha256()
    written = folder / "blob"
    with written.open("wb") as file:
        for start in range(0, size, len(piece)):
            part = piece[: size - start]
            hasher.update(part)
            file.write(part)
    digest = hasher.hexdigest()
    root = folder / "docker/registry/v2"
    blob = root / "blobs/sha256" / digest[:2] / digest / "data"
    blob.parent.mkdir(parents=True)
    written.rename(blob)
    link = root / "repositories/x/_layers/sha256" / digest / "link"
    link.parent.mkdir(parents=True)
    link.write_text(f"sha256:{digest}")
    return digest, blob


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _measure(contestant: Contestant) -> Figures:
    cpu_before, began = _cpu_s(contestant.process), time.perf_counter()
    received = _download(contestant.port, contestant.large)
    took = time.perf_counter() - began
    cpu = _cpu_s(contestant.process) - cpu_before
    latencies = _ask(contestant.port, contestant.small)
    return Figures(
        received / 1e9 / took,
        cpu / (received / 1e9),
        len(latencies) / sum(latencies),
        statistics.median(latencies) * 1000,
    )


def _download(port: int, path: str) -> int:
    """Bytes of one answer, received and dropped."""
    buffer = bytearray(1024 * 1024)
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while received := connection.recv_into(buffer):
            if not total:
                assert buffer.startswith(b"HTTP/1.1 200"), bytes(buffer[:200])
            total += received
    return total


def _ask(port: int, path: str) -> list[float]:
    """Seconds of each of many small requests over one connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    took = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(SMALL_REQUESTS):
            began = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(65536)
            took.append(time.perf_counter() - began)
            assert answer.endswith(b"{}"), answer
    return took


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _print(figures: dict[str, list[Figures]]) -> None:
    print(f"{'':18}{'GB/s':>8}{'CPU-s/GB':>10}{'requests/s':>12}{'median ms':>11}")
    medians = {
        name: Figures(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in figures.items()
    }
    for name, median in medians.items():
        print(f"{name:18}{median[0]:8.2f}{median[1]:10.2f}{median[2]:12.0f}{median[3]:11.3f}")
    ours, theirs = medians["beiran"], medians["docker-registry"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(f"{'ratio':18}{ratios[0]:8.2f}{ratios[1]:10.2f}{ratios[2]:12.2f}{ratios[3]:11.2f}")


if __name__ == "__main__":
    main()
