"""How fast an agent's server gives blobs, beside Debian's docker-registry (and nginx, if there).

    python -m benchmarks.serving [--rounds N] [--megabytes N]

One blob over loopback, in the same run, with a reader that only reads: whole, in ranges of 1 MiB
over one kept-alive connection, and a small answer many times. Then a fetch as agents do it, with
BLAKE3 for each piece and SHA-256 of the whole, into a blob cache: over one connection, and from
eight servers at once; and eight readers at one server. Prints medians, the CPU time that each
process took, the most memory it had, and ratios.
"""

import argparse
import hashlib
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from beiran.cache.blob_cache import BlobCache
from beiran.gossip.membership.member import Address
from beiran.http.blob_response import answer_blob
from beiran.http.listeners import open_tcp_listeners
from beiran.http.messages import Request, Response, Route, json_response
from beiran.http.server import HttpCounters, serve_http
from beiran.ids import Digest, parse_digest
from beiran.peers.blob_fetch import open_peer_blobs

SMALL_REQUESTS = 3000
MEGABYTE = 1_000_000
PIECE_BYTES = 2**20
PEERS = 8
CACHE_BYTES = 2**40
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
    ranges_gigabytes_per_s: float
    ranges_cpu_s_per_gigabyte: float
    requests_per_s: float
    median_ms: float


class Fetched(NamedTuple):
    gigabytes_per_s: float
    cpu_s_per_gigabyte: float
    most_memory_mb: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--megabytes", type=int, default=1024)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    options.add_argument("--fetch", nargs="+", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        trio.run(_serve, Path(chosen.serve))
    elif chosen.fetch:
        folder, digest, size, *ports = chosen.fetch
        trio.run(_fetch, folder, digest, int(size), [int(port) for port in ports])
    else:
        _compare(chosen.rounds, chosen.megabytes * MEGABYTE)


def _compare(rounds: int, size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="beiran-serving-") as name, ExitStack() as stack:
        folder = Path(name)
        digest, blob = _write_registry(folder, size)
        trio.run(_fill_cache, folder / "cache", blob, digest, size)
        servers = [stack.enter_context(_beiran(folder, digest)) for _ in range(PEERS)]
        contestants = [servers[0], stack.enter_context(_registry(folder, digest))]
        if shutil.which("nginx"):
            contestants.append(stack.enter_context(_nginx(folder, blob)))
        figures: dict[str, list[Figures]] = {}
        fetched: dict[str, list[Fetched]] = {}
        for _ in range(rounds):
            for contestant in contestants:
                figures.setdefault(contestant.name, []).append(_measure(contestant, size))
            for count in (1, PEERS):
                key = f"fetch, {count} server{'s' * (count > 1)}"
                fetched.setdefault(key, []).append(
                    _measure_fetch(folder, digest, size, servers[:count])
                )
        _print(figures)
        _print_fetched(fetched)
        with ThreadPoolExecutor(PEERS) as threads:
            list(threads.map(lambda _: _download(servers[0].port, servers[0].large), range(PEERS)))
        print(f"most memory of a server, {PEERS} readers at once: {_memory_mb(servers[0]):.0f} MB")


async def _fill_cache(folder: Path, blob: Path, digest: str, size: int) -> None:
    cache = await BlobCache.open(folder, CACHE_BYTES)
    with (
        closing(await cache.partial(Digest(bytes.fromhex(digest)), size)) as into,
        open(blob, "rb") as file,  # noqa: ASYNC230
    ):
        claim = into.claim(0, size)
        assert claim is not None
        for start in range(0, size, 16 * MEGABYTE):
            await into.write(claim, start, file.read(16 * MEGABYTE))
        into.unclaim(claim)
        into.hold(0, size)
        assert await into.verify()
    await cache.settle()


async def _serve(folder: Path) -> None:
    cache = await BlobCache.open(folder, CACHE_BYTES)

    async def blob(request: Request) -> Response:
        return answer_blob(request, cache.open_file(parse_digest(request.path_args["digest"])))

    async def small(request: Request) -> Response:
        return json_response({})

    routes = [
        Route(method="GET", pattern="/blobs/{digest}", handler=blob),
        Route(method="GET", pattern="/small", handler=small),
    ]
    listeners = await open_tcp_listeners("127.0.0.1", 0)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve_http(listeners, routes, listener="tcp", counters=HttpCounters())


async def _fetch(folder: str, digest_hex: str, size: int, ports: list[int]) -> None:
    """Fetch a blob as an agent does; print seconds, CPU seconds and bytes of memory."""
    cache = await BlobCache.open(Path(folder), CACHE_BYTES)
    digest = Digest(bytes.fromhex(digest_hex))
    run_bytes = size if len(ports) == 1 else 4 * PIECE_BYTES
    runs = iter(range(0, size, run_bytes))
    began, cpu_began = time.perf_counter(), time.process_time()
    async with open_peer_blobs() as peers:
        with closing(await cache.partial(digest, size)) as into:

            async def fetch_runs(port: int) -> None:
                for start in runs:
                    await peers.fetch(
                        Address("127.0.0.1", port),
                        digest,
                        start,
                        min(start + run_bytes, size),
                        into,
                        piece_bytes=PIECE_BYTES,
                        judge=lambda start, end, found: True,
                        stall_timeout_s=10,
                    )

            async with trio.open_nursery() as fetching:
                for port in ports:
                    fetching.start_soon(fetch_runs, port)
            assert await into.verify()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        await cache.settle()
    print(took, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


@contextmanager
def _beiran(folder: Path, digest: str) -> Iterator[Contestant]:
    command = [sys.executable, "-m", "benchmarks.serving", "--serve", str(folder / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield Contestant("beiran", process, port, f"/blobs/sha256:{digest}", "/small")
        finally:
            process.terminate()


@contextmanager
def _nginx(folder: Path, blob: Path) -> Iterator[Contestant]:
    port = _free_port()
    (folder / "nginx").mkdir()
    (folder / "nginx.conf").write_text(
        "daemon off; master_process off; pid nginx.pid; error_log stderr crit;\n"
        "events {}\nhttp { access_log off; sendfile on; client_body_temp_path nginx;\n"
        f"server {{ listen 127.0.0.1:{port};\n location /large {{ alias {blob}; }}\n"
        "location /small { return 200 '{}'; } } }\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield Contestant("nginx", process, port, "/large", "/small")
        finally:
            process.terminate()


@contextmanager
def _registry(folder: Path, digest: str) -> Iterator[Contestant]:
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("docker-registry is missing; on Debian: apt-get install docker-registry")
    port = _free_port()
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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


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


def _measure(contestant: Contestant, size: int) -> Figures:
    cpu_before, began = _cpu_s(contestant.process), time.perf_counter()
    received = _download(contestant.port, contestant.large)
    took, cpu = time.perf_counter() - began, _cpu_s(contestant.process) - cpu_before
    cpu_before, began = _cpu_s(contestant.process), time.perf_counter()
    in_ranges = _download_ranges(contestant.port, contestant.large, size)
    ranges_took, ranges_cpu = time.perf_counter() - began, _cpu_s(contestant.process) - cpu_before
    latencies = _ask(contestant.port, contestant.small)
    return Figures(
        received / 1e9 / took,
        cpu / (received / 1e9),
        in_ranges / 1e9 / ranges_took,
        ranges_cpu / (in_ranges / 1e9),
        len(latencies) / sum(latencies),
        statistics.median(latencies) * 1000,
    )


def _measure_fetch(folder: Path, digest: str, size: int, servers: list[Contestant]) -> Fetched:
    ports = [str(server.port) for server in servers]
    into = folder / "fetched"
    _warm_memory(folder / "warm", size)
    command = [sys.executable, "-m", "benchmarks.serving", "--fetch", str(into), digest, str(size)]
    done = subprocess.run([*command, *ports], stdout=subprocess.PIPE, check=True)
    took, cpu, memory = map(float, done.stdout.split())
    shutil.rmtree(into)
    return Fetched(size / 1e9 / took, cpu / (size / 1e9), memory / 1e6)


def _warm_memory(path: Path, size: int) -> None:
    """Have the kernel own enough free pages: those a virtual machine gave back cost it more."""
    with path.open("wb") as file:
        for _ in range(0, size, 16 * MEGABYTE):
            file.write(bytes(16 * MEGABYTE))
    path.unlink()


def _download_ranges(port: int, path: str, size: int) -> int:
    """Bytes of many answers over one connection."""
    buffer = memoryview(bytearray(1024 * 1024 + 4096))
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for start in range(0, size - PIECE_BYTES, PIECE_BYTES):
            wanted = f"Range: bytes={start}-{start + PIECE_BYTES - 1}"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{wanted}\r\n\r\n".encode())
            received = connection.recv_into(buffer)
            head_bytes = bytes(buffer[:4096]).index(b"\r\n\r\n") + 4
            while received < PIECE_BYTES + head_bytes:
                received += connection.recv_into(buffer[received:])
            total += PIECE_BYTES
    return total


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


def _memory_mb(contestant: Contestant) -> float:
    """The most it ever had in memory."""
    status = Path(f"/proc/{contestant.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def _print(figures: dict[str, list[Figures]]) -> None:
    heads = ("GB/s", "CPU-s/GB", "1 MiB: GB/s", "CPU-s/GB", "requests/s", "median ms")
    print(f"{'serving':20}" + "".join(f"{head:>13}" for head in heads))
    medians = {
        name: Figures(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in figures.items()
    }
    for name, median in medians.items():
        print(f"{name:20}" + "".join(f"{value:13.2f}" for value in median))
    ours = medians["beiran"]
    for name, median in medians.items():
        if name != "beiran":
            ratios = [mine / other for mine, other in zip(ours, median, strict=True)]
            print(f"{'÷ ' + name:20}" + "".join(f"{ratio:13.2f}" for ratio in ratios))


def _print_fetched(fetched: dict[str, list[Fetched]]) -> None:
    print(f"{'fetching':20}{'GB/s':>13}{'CPU-s/GB':>13}{'memory MB':>13}")
    for name, rows in fetched.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{name:20}" + "".join(f"{value:13.2f}" for value in medians))


if __name__ == "__main__":
    main()
