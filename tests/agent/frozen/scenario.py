"""Three agents, one story, and everything that a client can ask of them, as one JSON document.

``python -m tests.agent.frozen.scenario [PYTHON]`` prints the answers of the beiran that PYTHON
imports. Nothing here imports beiran, so that the same scenario runs against any release. Times,
ports, generations, releases and texts of errors are replaced by words.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from tests.agent.frozen.images import FrozenImage, digest_of, layer, registry_with, write_layout

WITHIN_S = 60.0
HEADERS = (
    *("content-type", "etag", "accept-ranges", "content-range", "allow", "vary", "upgrade"),
    *("docker-content-digest", "docker-distribution-api-version", "beiran-source", "link"),
)
NAMES = ("alpha", "beta", "gamma")
UUIDS = {name: f"00000000-0000-4000-8000-{place:012x}" for place, name in enumerate(NAMES, 10)}

BASE, WEB, DB, EXTRA = layer("base", 4000), layer("web", 2000), layer("db", 3000), layer("x", 100)
WEB_IMAGE = FrozenImage(("demo/web:1.0", "demo/web:latest"), (BASE, WEB))
APP_ON_ALPHA = FrozenImage(("app:1",), (BASE, EXTRA), "2026-02-01T00:00:00Z")
APP_ON_BETA = FrozenImage(("app:1",), (BASE, DB), "2026-03-01T00:00:00Z", "arm64")
UNTAGGED = FrozenImage((), (EXTRA,), "2026-04-01T00:00:00Z")
UNTAGGED_OLDER = FrozenImage((), (DB,), "2025-04-01T00:00:00Z")
OLD = FrozenImage(("zzz.example/team/old:7",), (BASE, layer("old", 500)))
NEW = FrozenImage(("demo/new:1",), (WEB, layer("new", 700)))
REGISTRY_IMAGE = FrozenImage(("reg:1",), (BASE, layer("reg", 300_000)))
LAYOUTS = {
    "alpha": [WEB_IMAGE, APP_ON_ALPHA, UNTAGGED, UNTAGGED_OLDER],
    "beta": [WEB_IMAGE, APP_ON_BETA],
    "gamma": [OLD],
}
UNKNOWN_UUID = "00000000-0000-4000-8000-0000000000ff"
UNKNOWN_DIGEST = "sha256:" + "0" * 64

Json = Any


class Agent:
    """One agent as a process of its own."""

    def __init__(self, python: str, folder: Path, name: str) -> None:
        self.python = python
        self.name = name
        self.folder = folder / name
        self.port = free_port()
        self.mirror_port = free_port()
        self.socket = str(self.folder / "sock")
        (self.folder / "config").mkdir(parents=True)
        (self.folder / "config" / "node.uuid").write_text(UUIDS[name] + "\n")
        write_layout(self.folder / "images", LAYOUTS[name])

    @contextmanager
    def running(self, registry_port: int, join: "Agent | None" = None) -> Iterator[None]:
        """Run it with an origin on loopback, and no other registry within reach."""
        options = {
            "config-dir": self.folder / "config",
            "data-dir": self.folder / "data",
            "socket": self.socket,
            "name": self.name,
            "bind": "127.0.0.1",
            "port": self.port,
            "mirror-port": self.mirror_port,
            "engine": f"oci:{self.folder / 'images'}",
            "origin": f"docker.io=http://127.0.0.1:{registry_port}",
            "allow-prefetch": "docker.io/library/*",
            "docker-config": self.folder / "none.json",
        }
        if join is not None:
            options["join"] = f"127.0.0.1:{join.port}"
        words = [f"--{name}={value}" for name, value in options.items()]
        command = [self.python, "-m", "beiran_cli", "agent", "--no-beacon", *words]
        log = self.folder / "log"
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=output, env=environment()
            )
        try:
            yield
        except BaseException:
            sys.stderr.write(log.read_text())
            raise
        finally:
            self.stop()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WITHIN_S) == 0

    def get(self, path: str) -> Json:
        _, _, body = self.ask("GET", path)
        return json.loads(body)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        listener: str = "unix",
    ) -> tuple[int, dict[str, str], bytes]:
        port = self.mirror_port if listener == "mirror" else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
        try:
            if listener == "unix":
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(WITHIN_S)
                connection.sock.connect(self.socket)
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return response.status, received, response.read()
        finally:
            connection.close()

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-m", "beiran_cli", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
            env={**environment(), "BEIRAN_SOCKET": self.socket},
        )


def environment() -> dict[str, str]:
    """Ours, without what would set up an agent, name a proxy or import another beiran."""
    unwanted = re.compile(r"BEIRAN_.*|PYTHONPATH|.*_proxy", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not unwanted.fullmatch(name)}


def free_port() -> int:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        port: int = tcp.getsockname()[1]
        return port


def until(condition: Callable[[], object]) -> None:
    """Poll an agent until it has come as far as that."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            if condition():
                return
        except (OSError, KeyError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "the agents did not come as far as that"
        time.sleep(0.02)


class Story:
    """The requests, in order, and their answers."""

    def __init__(self, python: str, folder: Path, registry_port: int) -> None:
        self.folder = folder
        self.answers: dict[str, Json] = {}
        self.alpha, self.beta, self.gamma = (Agent(python, folder, name) for name in NAMES)
        self._registry_port = registry_port
        self._ports = {registry_port: "REGISTRY"}
        for agent in (self.alpha, self.beta, self.gamma):
            self._ports |= {agent.port: f"PORT of {agent.name}", agent.mirror_port: "MIRROR"}

    def tell(self) -> None:
        """Everything, from the first start to the last row in the database."""
        with ExitStack() as running:
            running.enter_context(self.alpha.running(self._registry_port))
            until(lambda: len(self.alpha.get("/images")["images"]) == len(LAYOUTS["alpha"]))
            running.enter_context(self.beta.running(self._registry_port, self.alpha))
            with self.gamma.running(self._registry_port, self.alpha):
                until(partial(self._all_is_known, {*UUIDS.values()}))
            until(lambda: self._state_of("gamma") == "left")
            self._ask_for_listings()
            self._ask_by_websocket()
            self._ask_by_command()
            trio.run(self._follow_a_new_image)
            self._pull()
            self._ask_the_mirror()
            self.answers["events"] = self._events()
            self._read_the_database()

    def _all_is_known(self, uuids: set[str]) -> bool:
        nodes = self.alpha.get("/nodes?all=true")["nodes"]
        images = self.alpha.get("/images?all=true")["images"]
        known = {image.id for images in LAYOUTS.values() for image in images}
        return (
            {node["uuid"] for node in nodes if node["version"]} == uuids
            and {image["id"] for image in images} == known
            and all(image["created_at"] for image in images)
        )

    def _state_of(self, name: str) -> str:
        state = self.alpha.get(f"/nodes/{UUIDS[name]}")["state"]
        assert isinstance(state, str)
        return state

    # --- HTTP -------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, *, body: Json = None, listener: str = "unix", **headers: str
    ) -> None:
        """Ask alpha, and keep the answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        status, received, answer = self.alpha.ask(method, path, sent, data, listener=listener)
        shown = " ".join(f"{name}={value}" for name, value in sent.items())
        asked = " ".join(filter(None, (listener, method, path, shown, body and json.dumps(body))))
        if len(asked) > 400:
            asked = f"{asked[:60]}… ({len(asked)})"
        while asked in self.answers:
            asked += ", again"
        kept = {name: received[name] for name in HEADERS if name in received}
        self.answers[asked] = self._same(
            {"status": status, "headers": kept, "body": self._body(path, kept, answer)}
        )

    def _body(self, path: str, headers: Mapping[str, str], body: bytes) -> Json:
        if path.startswith("/metrics"):
            lines = [line for line in body.decode().splitlines() if not line.startswith("# HELP")]
            return sorted(re.sub(r"^([^# ][^ ]*) .*", r"\1", line) for line in lines)
        if headers.get("content-type") != "application/json":
            return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        if not body:
            return None  # of HEAD
        return described(json.loads(body)) if path == "/openapi.json" else json.loads(body)

    def _ask_for_listings(self) -> None:
        web, alpha, gamma = WEB_IMAGE.id, UUIDS["alpha"], UUIDS["gamma"]
        base = digest_of(BASE)
        several = next(digit for digit in "0123456789abcdef" if ambiguous(digit))
        for path in (
            *("/info", "/healthz", "/metrics", "/openapi.json", "/nodes", "/nodes?all=true"),
            *(f"/nodes/{uuid}" for uuid in (*UUIDS.values(), UNKNOWN_UUID, "nonsense")),
            *("/images", "/images?all=true", "/images?all=false", f"/images?node={gamma}"),
            *("/layers", "/layers?all=true", f"/layers?node={gamma}", "/transfers"),
            *(f"/images/{image}" for image in (web, web[7:19], web[:20], "demo/web", "app:1")),
            *(f"/images/{OLD.names[0]}", f"/images/{UNTAGGED.id}", f"/images/{OLD.id}"),
            f"/images/zzz.example/team/old@{digest_of(OLD.manifest)}",
            *("/images/none:1", f"/images/{UNKNOWN_DIGEST}", f"/images/{several}"),
            *(
                f"/layers/{UNKNOWN_DIGEST}",
                "/layers/nonsense",
                f"/layers/{digest_of(OLD.layers[1])}",
            ),
            *("/nodes?all=maybe", "/nodes?all=true&all=true", "/nodes?node=x", "/images?node=x"),
            *(f"/images?node={UNKNOWN_UUID}", f"/images?all=true&node={alpha}", "/info?all=true"),
            *("/nodes?follow=true", "/metrics?all=true", "/transfers?follow=true", "/events?x=1"),
            *(f"/layers/{base}", f"/layers?node={UNKNOWN_UUID}", "/layers?all=1", "/nothing", "/"),
            *(f"/images/{web}/manifest", f"/images/{UNKNOWN_DIGEST}/manifest", "/tags"),
            *(f"/manifests/{digest_of(WEB_IMAGE.manifest)}", f"/manifests/{UNKNOWN_DIGEST}"),
            *(f"/blobs/{digest_of(WEB_IMAGE.config)}", f"/blobs/{UNKNOWN_DIGEST}", "/blobs/x"),
            *("/tags?reference=docker.io/library/reg:1", "/pulls/run?reference=reg:1"),
            *("/gossip/watch", "/nodes?" + "x" * 3000),
        ):
            self._ask("GET", path)
        for path in ("/info", "/nodes", "/images?all=true", "/layers?all=true", "/pulls/run"):
            self._ask("GET", path, listener="tcp")
        layer_path = f"/layers/{base}"
        self._ask("GET", layer_path, Accept="application/json")
        self._ask("GET", layer_path, Range="bytes=100-199")
        self._ask("GET", layer_path, Range="bytes=-5", If_Range='"other"')
        self._ask("GET", layer_path, Range="bytes=999999-")
        self._ask("GET", layer_path, If_None_Match=f'W/"{base}"')
        blob = f"/blobs/{digest_of(WEB_IMAGE.config)}"
        self._ask("GET", blob, Range="bytes=5-9")
        self._ask("GET", blob, Range="bytes=999999-")
        for path in ("/info", layer_path, blob, "/nothing"):
            self._ask("HEAD", path)
        self._ask("OPTIONS", "/nodes")
        for path in ("/nodes", "/nothing", "/pulls", "/pulls?reference=UPPER", "/prefetch"):
            self._ask("POST", path)
        self._ask("POST", "/pulls?reference=reg:1", listener="tcp")
        self._ask("POST", "/pulls?reference=reg:none")
        self._ask("POST", f"/pulls?reference=app:2&from={UUIDS['beta']}")
        self._ask("POST", "/prefetch/here?reference=evil.example/x:1", listener="tcp")
        self._ask("POST", "/blobs/have", body={"digests": [*WEB_IMAGE.blobs, UNKNOWN_DIGEST]})
        self._ask("POST", "/blobs/have", body={"digests": ["x"]})
        self._ask("POST", "/blobs/have", body={"digest": []})
        self._ask("POST", "/gossip", body={"not": "gossip"}, listener="tcp")

    def _ask_the_mirror(self) -> None:
        manifest = digest_of(REGISTRY_IMAGE.manifest)
        some_layer = next(iter(REGISTRY_IMAGE.blobs))
        repository = "/v2/library/reg"
        ask = partial(self._ask, "GET", listener="mirror")
        for path in (
            *("/v2/", "/v2", "/v2/_catalog", "/info", f"{repository}/manifests/1"),
            *(f"{repository}/manifests/{manifest}", f"{repository}/manifests/none"),
            *(f"{repository}/blobs/{some_layer}", f"{repository}/blobs/{UNKNOWN_DIGEST}"),
            *(f"{repository}/blobs/x", f"{repository}/manifests/-", "/v2/UPPER/manifests/1"),
            f"{repository}/tags/list?n=x",
        ):
            ask(path)
        ask(f"{repository}/blobs/{some_layer}", Range="bytes=7-11")
        ask(f"{repository}/blobs/{some_layer}", Range="bytes=999999-")
        ask(f"{repository}/blobs/{some_layer}", If_None_Match=f'"{some_layer}"')
        ask(f"{repository}/manifests/1", If_None_Match=f'"{manifest}"')
        ask(f"{repository}/manifests/1", Accept="text/plain")
        ask(f"{repository}/manifests/1", Via="1.1 beiran")
        for method in ("HEAD", "OPTIONS", "PUT", "DELETE"):
            self._ask(method, f"{repository}/manifests/1", listener="mirror")
        self._ask("HEAD", f"{repository}/blobs/{some_layer}", listener="mirror")

    # --- WebSockets -------------------------------------------------------------------------

    def _ask_by_websocket(self) -> None:
        for path in (
            *("/info", "/healthz", "/nodes", "/nodes?all=true", "/images", "/images?all=true"),
            *("/layers", "/layers?all=true", "/transfers", f"/nodes/{UUIDS['gamma']}"),
            *(f"/images/{WEB_IMAGE.id}", f"/layers/{digest_of(BASE)}"),
            *(f"/images/{UNKNOWN_DIGEST}", f"/nodes/{UNKNOWN_UUID}", "/nodes/x", "/nothing"),
            *("/nodes?all=maybe", "/metrics", "/images?all=true&node=x", "/pulls/run"),
        ):
            self.answers[f"websocket {path}"] = self._same(trio.run(self._messages, path))
        for path in ("/nodes", "/images", "/layers", f"/images/{WEB_IMAGE.id}", "/transfers"):
            followed = f"{path}?follow=true"
            self.answers[f"websocket {followed}"] = self._same(trio.run(self._messages, followed))

    async def _messages(self, path: str) -> Json:
        """All messages, up to the one that says that the rows are over."""
        messages: list[Json] = []

        def take(message: Json) -> bool:
            messages.append(message)
            return bool(message == {"change": "listed"})

        with trio.fail_after(WITHIN_S):
            end = await read_websocket(self.alpha.port, path, take)
        return [*messages, end]

    async def _follow_a_new_image(self) -> None:
        """Beta gains an image and loses it. Collect what alpha sends to its followers."""
        received: dict[str, dict[str, Json]] = {"/images?all=true": {}, "/layers?all=true": {}}
        kinds: set[str] = set()
        listed = {path: trio.Event() for path in received}

        def take(path: str, message: Json) -> bool:
            if message == {"change": "listed"}:
                listed[path].set()
            elif "change" in message:
                row = message.get("image") or message.get("layer")
                key = row.get("id") or row.get("digest")
                # An image that is described later is sent twice; the last row counts.
                received[path].setdefault(key, {})[message["change"]] = self._same(row)
                kinds.add(f"{message['change']} {key}")
            return False

        layout = self.beta.folder / "images"
        new_layer = digest_of(NEW.layers[1])
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                for path in received:
                    follow = partial(take, path)
                    followed = f"{path}&follow=true"
                    nursery.start_soon(read_websocket, self.alpha.port, followed, follow)
                for event in listed.values():
                    await event.wait()
                write_layout(layout, [*LAYOUTS["beta"], NEW])
                await poll(lambda: self._is_described(NEW) and f"added {new_layer}" in kinds)
                self._ask("GET", f"/images/{NEW.id}")
                self._ask("GET", f"/layers/{new_layer}", Accept="application/json")
                write_layout(layout, LAYOUTS["beta"])
                await poll(lambda: f"removed {NEW.id}" in kinds)
                await poll(lambda: f"removed {new_layer}" in kinds)
                nursery.cancel_scope.cancel()
        for path, rows in received.items():
            for changes in rows.values():
                if "added" in changes and "changed" in changes:
                    changes["added"] = changes.pop("changed")
            self.answers[f"changes of {path}"] = rows

    def _is_described(self, image: FrozenImage) -> bool:
        status, _, body = self.alpha.ask("GET", f"/images/{image.id}")
        return status == 200 and json.loads(body)["size_bytes"] is not None

    # --- CLI --------------------------------------------------------------------------------

    def _ask_by_command(self) -> None:
        for words in (
            *("info", "node list", "node list --all", "node show gamma", "node show alpha"),
            *(
                "image list",
                "image list --all",
                "image list --node beta",
                "image list --node gamma",
            ),
            *("image show demo/web:1.0", "image show app:1", f"image show {UNTAGGED.id}"),
            *("layer list", "layer list --all", "layer list --node beta", "transfer list"),
            *("image show none:1", "node show none", "image list --node none", "nothing"),
            *("image list --all --node beta", "node list --socket /nonexistent"),
            "plan --nodes 100 --images 50",
        ):
            done = self.alpha.cli(*words.split(), "--output", "json")
            shown: Json = json.loads(done.stdout) if done.returncode == 0 else None
            if words.startswith("plan"):
                shown = sorted(shown)  # the names of its figures: fits give new ones
            answer = {"exit code": done.returncode, "stdout": self._same(shown)}
            self.answers[f"beiran {words}"] = answer

    # --- pulls ------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Alpha pulls from the registry, has beta prefetch, and pulls beta's from it."""
        self._ask("POST", "/pulls?reference=reg:1")
        until(lambda: self._is_held(self.alpha, REGISTRY_IMAGE))
        self._ask("POST", "/pulls?reference=reg:1")
        rows = trio.run(self._rows_of_a_pull, f"app:1&from={UUIDS['beta']}")
        self.answers["pull by websocket"] = self._same(rows)
        until(lambda: self._is_held(self.alpha, APP_ON_BETA))
        self._ask("POST", "/prefetch", body={"reference": "reg:1", "nodes": [UUIDS["beta"]]})
        until(lambda: self._is_held(self.beta, REGISTRY_IMAGE))
        self._ask("POST", "/prefetch", body={"reference": "demo/web:1.0", "nodes": "all"})
        self._ask("POST", "/prefetch", body={"reference": "reg:1", "nodes": [UNKNOWN_UUID]})
        self._ask("GET", "/tags?reference=docker.io/library/reg:1")
        self._ask("GET", f"/manifests/{digest_of(REGISTRY_IMAGE.manifest)}")
        self._ask("GET", f"/blobs/{next(iter(REGISTRY_IMAGE.blobs))}", Range="bytes=0-99")
        self._ask("POST", "/blobs/have", body={"digests": [*REGISTRY_IMAGE.blobs]})
        until(lambda: self._holders(REGISTRY_IMAGE) == 2)
        for path in ("/images", "/layers", f"/images/{REGISTRY_IMAGE.id}"):
            self._ask("GET", path)

    def _is_held(self, agent: Agent, image: FrozenImage) -> bool:
        return image.id in {row["id"] for row in agent.get("/images")["images"]}

    def _holders(self, image: FrozenImage) -> int:
        return len(self.alpha.get(f"/images/{image.id}")["available_at"])

    async def _rows_of_a_pull(self, query: str) -> Json:
        """The last row of each layer, and the one that ends the pull."""
        command = f"/pulls/run?reference={query}"
        rows: dict[str, Json] = {}

        def take(row: Json) -> bool:
            rows[row["digest"] if "state" in row else "end"] = row
            return False

        with trio.fail_after(WITHIN_S):
            rows |= await read_websocket(self.alpha.socket, command, take)
        return rows

    # --- the rest ---------------------------------------------------------------------------

    def _events(self) -> Json:
        """In any order: those of two nodes race each other. Suspicion comes with a busy machine."""
        events = [
            {name: value for name, value in event.items() if name not in ("at", "reason")}
            for event in self.alpha.get("/events")["events"]
            if event["event"] not in ("node.suspect", "node.online", "node.offline")
        ]
        return sorted(events, key=json.dumps)

    def _read_the_database(self) -> None:
        """Tables, views and every row, without row numbers, which depend on who came first."""
        db = sqlite3.connect(f"file:{self.alpha.folder / 'data' / 'beiran.db'}?mode=ro", uri=True)
        schema = db.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master"
            " WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
        )
        self.answers["database schema"] = [
            [*row, " ".join((sql or "").split())] for *row, sql in schema
        ]
        for name, query in {
            "self": "SELECT uuid, cluster FROM self",
            "migrations": "SELECT migration_set, name FROM _sqlite_migrations",
            "nodes": "SELECT uuid, name, address, state, engine, version IS NOT NULL,"
            " first_seen_at IS NOT NULL, last_seen_at IS NOT NULL, holdings_version > 0 FROM nodes",
            "images": "SELECT digest, os, architecture, created_at, size_bytes FROM images",
            "layers": "SELECT digest, size_bytes FROM layers",
            "image_layers": "SELECT images.digest, position, layers.digest, image_layers.size_bytes"
            " FROM image_layers JOIN images ON images.id = image"
            " JOIN layers ON layers.id = layer",
            "holding_names": "SELECT names.name, images.digest, nodes.uuid FROM holding_names"
            " JOIN names ON names.id = holding_names.name JOIN images ON images.id = image"
            " JOIN nodes ON nodes.id = node",
            "tags": "SELECT reference, digest, media_type, size_bytes FROM tags",
            "image_holdings": "SELECT * FROM image_holdings",
            "layer_holdings": "SELECT * FROM layer_holdings",
            "image_list": "SELECT * FROM image_list",
            "layer_list": "SELECT * FROM layer_list",
        }.items():
            rows = [[self._cell(cell) for cell in row] for row in db.execute(query)]
            self.answers[f"database {name}"] = sorted(rows, key=json.dumps)
        db.close()

    def _cell(self, cell: Json) -> Json:
        if isinstance(cell, str) and cell.startswith(("[", "{")):
            value = json.loads(cell)
            return self._same(sorted(value) if isinstance(value, list) else value)
        return cell

    def _same(self, value: Json, key: str = "") -> Json:
        """``value`` without what differs from one run to the next."""
        if isinstance(value, dict):
            if key == "counters":
                return sorted(value)
            return {name: self._same(inner, name) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._same(inner, key) for inner in value]
        if key in ("generation", "incarnation", "duration_s", "rate_bytes_per_s"):
            return key.upper()
        if key in ("started_at", "last_seen_at", "at", "resolved_at", "version", "message"):
            return key.upper() if value else value
        if key == "port":
            return self._ports.get(value, value)
        return value.replace(str(self.folder), "FOLDER") if isinstance(value, str) else value


async def read_websocket(at: int | str, path: str, take: Callable[[Json], bool]) -> Json:
    """Hand ``take`` each message, until it returns True or the other end closes.

    Args:
      at: a port of this host, or a unix socket.

    Returns: how it ended, where the server ended it.
    """
    stream: trio.abc.Stream
    if isinstance(at, int):
        stream = await trio.open_tcp_stream("127.0.0.1", at)
    else:
        stream = await trio.open_unix_socket(at)
    end: Json = {}
    async with stream:
        try:
            async with trio.open_nursery() as nursery:
                websocket = await wrap_client_stream(nursery, stream, "localhost", path)
                while not take(json.loads(await websocket.get_message())):
                    pass
                nursery.cancel_scope.cancel()
        except* ConnectionClosed as closed:
            end = {"closed": only(closed).reason.code}
        except* ConnectionRejected as rejected:
            end = {"rejected": only(rejected).status_code}
    return end


def only(group: BaseException) -> Any:
    """The exception within groups of one."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def poll(condition: Callable[[], bool]) -> None:
    while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - a process's state
        await trio.sleep(0.02)


def ambiguous(digit: str) -> bool:
    """Whether several images' digests begin with it."""
    ids = {image.id for images in LAYOUTS.values() for image in images}
    return sum(identity.startswith(f"sha256:{digit}") for identity in ids) > 1


def described(document: Json) -> Json:
    """An OpenAPI document without its prose."""
    if isinstance(document, dict):
        return {
            name: described(inner)
            for name, inner in document.items()
            if not (name in ("description", "summary") and isinstance(inner, str))
            and (name, inner) != ("headers", {})
            and name != "info"
        }
    return list(map(described, document)) if isinstance(document, list) else document


def record(python: str = sys.executable) -> dict[str, Json]:
    """Tell the story to the beiran that ``python`` imports, and return what it answered."""
    folder = Path(tempfile.mkdtemp(prefix="beiran-frozen-"))
    try:
        with registry_with("library/reg", "1", REGISTRY_IMAGE) as registry_port:
            story = Story(python, folder, registry_port)
            story.tell()
            return story.answers
    finally:
        shutil.rmtree(folder)


def main(words: Sequence[str]) -> None:
    answers = record(*words)
    lines = (f"{json.dumps(asked)}: {json.dumps(answer)}" for asked, answer in answers.items())
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main(sys.argv[1:])
