"""A registry on a host of the lab that answers badly, each repository in a way of its own.

It runs in the test's process; only its socket is on the host.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tests.lab.images import CONFIG, INDEX, LAYER, MANIFEST, sha256_text
from tests.lab.network import Host, Lan
from tests.lab.pulling import random_image

PORT: Final = 5002
HUGE_BYTES: Final = 100 * 2**20
SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@dataclass
class Repository:
    """The answers for one repository.

    Attributes:
      manifests: media type and bytes, by tag and digest.
      cut: number of bytes of each blob that are sent, although the head promises all.
      claimed: the digest in the head of each answer, right or wrong.
    """

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None
    claimed: str | None = None
    huge: bool = False
    html: bool = False

    def add(self, tag: str, media_type: str, document: object) -> dict[str, Any]:
        """Have a document by a tag and its digest. Returns: its descriptor."""
        data = json.dumps(document).encode()
        digest = sha256_text(data)
        self.manifests[tag] = self.manifests[digest] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}


def repositories() -> dict[str, Repository]:
    """Each by its name, with the tag ``1``."""
    image = random_image("bad", 2_000_000)
    config = {"mediaType": CONFIG, "digest": image.id, "size": len(image.config)}
    layer = {
        "mediaType": LAYER,
        "digest": image.diff_ids[0],
        "size": len(image.layers[0]),
    }
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}

    def good(**fields: Any) -> Repository:
        made = Repository(**fields)
        made.blobs = {image.id: image.config, image.diff_ids[0]: image.layers[0]}
        made.add("1", MANIFEST, manifest)
        return made

    other = bytes(len(image.layers[0]))
    wrong = good()
    wrong.blobs[image.diff_ids[0]] = other
    mismatch = good()
    mismatch.claimed = sha256_text(b"something else")
    short = good(cut=700_000)
    # No index can name itself by its digest; this one says so, and is sent for that digest too.
    circle = Repository()
    itself: dict[str, Any] = {"mediaType": INDEX, "digest": sha256_text(b"me"), "size": 400}
    platform = {"os": "linux", "architecture": "amd64"}
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{**itself, "platform": platform}],
    }
    circle.add("1", INDEX, index)
    circle.manifests[itself["digest"]] = circle.manifests["1"]
    nested = good()
    inner = nested.add("inner", INDEX, {**index, "manifests": []})
    nested.add("1", INDEX, {**index, "manifests": [{**inner, "platform": platform}]})
    old = Repository()
    old.add("1", SCHEMA_1, {"schemaVersion": 1, "name": "bad/schema1", "tag": "1", "fsLayers": []})
    return {
        "bad/huge": Repository(huge=True),
        "bad/mismatch": mismatch,
        "bad/html": Repository(html=True),
        "bad/circle": circle,
        "bad/nested": nested,
        "bad/schema1": old,
        "bad/short": short,
        "bad/wrong": wrong,
    }


@contextmanager
def start_bad_registry(lan: Lan, host: Host) -> Iterator[str]:
    """Yields ``ADDRESS:PORT``."""
    known = repositories()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            self.close_connection = True
            parts = self.path.partition("?")[0].removeprefix("/v2/").rsplit("/", 2)
            if len(parts) < 3 or parts[0] not in known:
                self._send(404 if parts[0] else 200, "application/json", b"{}")
                return
            name, kind, reference = parts
            repository = known[name]
            if repository.html:
                self._send(200, "text/html", b"<html><body>Please log in</body></html>")
            elif repository.huge:
                self._send_huge()
            elif kind == "manifests" and reference in repository.manifests:
                media_type, data = repository.manifests[reference]
                digest = repository.claimed or sha256_text(data)
                self._send(200, media_type, data, digest)
            elif kind == "blobs" and reference in repository.blobs:
                data = repository.blobs[reference]
                self._send(200, "application/octet-stream", data, cut=repository.cut)
            else:
                self._send(404, "application/json", b'{"errors": []}')

        def _send(
            self,
            status: int,
            media_type: str,
            body: bytes,
            digest: str = "",
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])

        def _send_huge(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", MANIFEST)
            self.send_header("Content-Length", str(HUGE_BYTES))
            self.send_header("Docker-Content-Digest", sha256_text(b"huge"))
            self.end_headers()
            if self.command == "GET":
                for _ in range(HUGE_BYTES // 2**20):
                    self.wfile.write(b" " * 2**20)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignore a client that closes the connection: it is right to."""

    server = Server((host.address, PORT), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = lan.socket(host, socket.SOCK_STREAM)
    server.server_bind()
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{host.address}:{PORT}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
