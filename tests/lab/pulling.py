"""Hosts that pull: an origin, and hosts with an agent each, some with a Docker Engine.

The origin is Debian's docker-registry on a host of its own. What it was asked is read from its
access log, so that every byte of a blob that left it is known.
"""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, Self

from tests.lab.agents import RunningAgent, eventually
from tests.lab.engines import RunningEngine
from tests.lab.images import (
    INDEX,
    Compression,
    MadeImage,
    made_image,
    named,
    write_blob,
    write_layout,
)
from tests.lab.network import Host, Lan

PORT: Final = 5000
MIRROR_PORT: Final = 8880
START_S_MAX: Final = 20.0
ANSWER_S_MAX: Final = 30.0
DOCKER_S_MAX: Final = 100.0
COUNTERS: Final = ("from_cache", "from_origin", "from_peers", "served", "wasted")
_ACCESS: Final = re.compile(
    r'^(?P<client>\S+) - \S+ \[[^\]]*\] "(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" '
    r"(?P<status>\d+) (?P<size>\d+)"
)


class Asked(NamedTuple):
    """A line of the origin's access log."""

    client: str
    method: str
    path: str
    status: int
    size_bytes: int


@dataclass
class Origin:
    """A registry on a host of the lab.

    Attributes:
      htpasswd: ``USER:BCRYPT`` of each user with access; empty for public.
    """

    lan: Lan
    host: Host
    folder: Path
    htpasswd: str = ""
    port: int = PORT
    _process: subprocess.Popen[bytes] | None = None
    _published: int = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"{self.host.address}:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "access.log"

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.yml"
        text = (
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.folder}}}}}\n"
            f"http: {{addr: ':{self.port}'}}\n"
        )
        if self.htpasswd:
            (self.folder / "htpasswd").write_text(self.htpasswd + "\n")
            text += f"auth: {{htpasswd: {{realm: lab, path: {self.folder}/htpasswd}}}}\n"
        config.write_text(text)
        with self.log.open("ab") as log, (self.folder / "errors.log").open("ab") as errors:
            self._process = subprocess.Popen(
                self.lan.command(self.host, "docker-registry", "serve", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                env={**os.environ, "GOMAXPROCS": "1", "OTEL_TRACES_EXPORTER": "none"},
            )
        await_listening(self.lan, self.host, self.port)

    def stop(self) -> None:
        """Kill it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def publish(
        self,
        name: str,
        *images: MadeImage,
        compression: Compression = "gzip",
        in_index: bool = False,
        credentials: str = "",
    ) -> str:
        """Push an image, or an index of some, by skopeo.

        Args:
          name: ``library/app:1``.
          credentials: ``USER:PASSWORD``.

        Returns: the digest that the tag means now.
        """
        self._published += 1
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            folder = Path(made)
            manifests = [image.write_blobs(folder, compression) for image in images]
            top = manifests[0]
            if in_index or len(manifests) > 1:
                top = write_index(folder, manifests)
            write_layout(folder, named(top, "it"))
            words = ["skopeo", "copy", "--all", "--quiet", "--dest-tls-verify=false"]
            words += ["--preserve-digests"]
            if credentials:
                words.append(f"--dest-creds={credentials}")
            words += [f"oci:{folder}:it", f"docker://{self.address}/{name}"]
            self.lan.run(self.host, *words)
        digest: str = top["digest"]
        return digest

    def asked(self) -> list[Asked]:
        """Everything that hosts other than its own have asked so far."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            match = _ACCESS.match(line)
            if match is None:
                continue
            client = match["client"].rpartition(":")[0] or match["client"]
            if client != self.host.address:
                found.append(
                    Asked(
                        client, match["method"], match["path"], int(match["status"]),
                        int(match["size"]),
                    )
                )  # fmt: skip
        return found

    def blob_bytes(self, repository: str) -> int:
        """Bytes of a repository's blobs, configs among them, that have left it."""
        start = f"/v2/{repository}/blobs/"
        return sum(
            asked.size_bytes
            for asked in self.asked()
            if asked.method == "GET" and asked.path.startswith(start) and asked.status < 300
        )

    def manifest_requests(self, repository: str) -> list[str]:
        """``METHOD REFERENCE`` of each question for one of a repository's manifests."""
        start = f"/v2/{repository}/manifests/"
        return [
            f"{asked.method} {asked.path.removeprefix(start)}"
            for asked in self.asked()
            if asked.path.startswith(start)
        ]


class Answer(NamedTuple):
    """An answer of an agent's listener. ``took_s`` is the time until its head arrived."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    took_s: float

    @property
    def message(self) -> str:
        """The message of an error."""
        return self._error["message"]

    @property
    def code(self) -> str:
        """Its code, where it is an error."""
        return self._error["code"]

    @property
    def _error(self) -> dict[str, str]:
        error: dict[str, str] = json.loads(self.body)["errors"][0]
        return error


@dataclass
class PullHost:
    """A host with an agent, and with an engine where it has one."""

    agent: RunningAgent
    engine: RunningEngine | None = None
    before: Mapping[str, int] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        return self.agent.host

    @property
    def name(self) -> str:
        return self.agent.name

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``docker`` on its engine."""
        done = subprocess.run(
            self.docker_command(*words), capture_output=True, text=True, timeout=DOCKER_S_MAX
        )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(words)} on {self.name}: {done.stderr}")
        return done

    def docker_command(self, *words: str) -> list[str]:
        assert self.engine is not None
        return ["docker", "-H", f"unix://{self.engine.socket_path}", *words]

    def inspect(self, name: str) -> Any:
        """The engine's description of an image."""
        return json.loads(self.docker("image", "inspect", name).stdout)[0]

    def holds(self, name: str) -> bool:
        """Whether its engine has an image."""
        return self.docker("image", "inspect", name, check=False).returncode == 0

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask its mirror, as a program of this host does."""
        address = ("127.0.0.1", MIRROR_PORT)
        return ask(self.agent.lan, self.host, address, path, method=method, headers=headers)

    def pull(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``beiran image pull``."""
        return self.agent.cli("image", "pull", *words, check=check)

    def counters(self) -> dict[str, int]:
        """Bytes of blobs since ``mark``, by where they came from."""
        counters = self.agent.get("/info")["counters"]
        return {
            name: counters[f"blob_bytes_{name}"] - self.before.get(name, 0) for name in COUNTERS
        }

    def mark(self) -> None:
        """Count from here."""
        self.before = {}
        self.before = self.counters()

    def cached_blobs(self) -> set[str]:
        """Digests of the blobs that its cache has, whole or in part, by their files."""
        folder = self.agent.data_dir / "blobs"
        names = {path.name for path in folder.rglob("*") if path.is_file()}
        return {match[0] for name in names if (match := re.search(r"[0-9a-f]{64}", name))}


def ask(
    lan: Lan,
    host: Host,
    address: tuple[str, int],
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Ask a server from ``host``."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(*address)
    connection.sock = lan.socket(host, socket.SOCK_STREAM)
    with contextlib.closing(connection):
        connection.sock.settimeout(ANSWER_S_MAX)
        connection.sock.connect(address)
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        took_s = time.monotonic() - began
        return Answer(answer.status, answer.headers, answer.read(), took_s)


def write_index(folder: Path, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put an index of these into a layout folder. Returns: its descriptor."""
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
    return {"mediaType": INDEX, **write_blob(folder, json.dumps(document).encode())}


def random_image(seed: str, *layers_bytes: int, architecture: str = "amd64") -> MadeImage:
    """An image with one incompressible file in each layer, of the sizes ``layers_bytes``."""
    layers = random_layers(seed, *layers_bytes)
    return made_image(*layers, labels={"seed": seed}, architecture=architecture)


def random_layers(seed: str, *layers_bytes: int) -> list[dict[str, bytes]]:
    """Layers with one incompressible file each, of the sizes ``layers_bytes``."""
    return [
        {f"file-{number}": Random(f"{seed}-{number}").randbytes(size)}
        for number, size in enumerate(layers_bytes)
    ]


def await_held(agents: Iterable[PullHost], tag: str, holders: Iterable[PullHost]) -> None:
    """Wait until all of these know who holds an image by this name."""
    uuids = {holder.agent.uuid for holder in holders}
    for one in agents:
        eventually(
            lambda: one.agent.holders_of_tag(tag),  # noqa: B023
            uuids,
            what=f"who holds {tag} for {one.name}",
        )


def await_listening(lan: Lan, host: Host, port: int) -> None:
    """Wait until a process listens on a port of ``host``. Raises: OSError after START_S_MAX."""
    deadline = time.monotonic() + START_S_MAX
    while True:
        with lan.socket(host, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(("127.0.0.1", port))
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.02)
