"""A registry of the test's own on loopback: has what it is given, and notes what it is asked."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class TinyRegistry:
    """Its blobs and manifests by digest and by tag, for any repository, and its requests."""

    address: str = ""
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Media types and bytes, by tag and by digest."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """``METHOD manifests/REFERENCE`` and ``METHOD blobs/DIGEST``, in order."""

    def publish(self, tag: str, media_type: str, manifest: bytes) -> str:
        """Have a manifest by a tag and its digest. Returns: the digest."""
        digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
        self.manifests[tag] = self.manifests[digest] = (media_type, manifest)
        return digest

    def publish_folder(self, tag: str, folder: Any, descriptor: Mapping[str, Any]) -> str:
        """Have an image of a layout folder."""
        for path in (folder / "blobs" / "sha256").iterdir():
            self.blobs["sha256:" + path.name] = path.read_bytes()
        return self.publish(tag, descriptor["mediaType"], self.blobs[descriptor["digest"]])

    @property
    def asked_blobs(self) -> list[str]:
        """The digests of the blobs whose bytes were asked for."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET blobs/")]

    def answer(self, kind: str, name: str) -> tuple[str, bytes] | None:
        if kind == "manifests":
            return self.manifests.get(name)
        data = self.blobs.get(name)
        return None if data is None else ("application/octet-stream", data)


@contextmanager
def start_tiny_registry() -> Iterator[TinyRegistry]:
    """A registry at ``address`` (``127.0.0.1:PORT``), stopped on the way out."""
    registry = TinyRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # containerd tries TLS first, and plain HTTP where the answer to that begins with HTTP/.
        default_request_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/v2/":
                self._send(200, "application/json", b"{}", "")
                return
            _, kind, name = path.rsplit("/", 2)
            registry.asked.append(f"{self.command} {kind}/{name}")
            found = registry.answer(kind, name)
            if found is None:
                self._send(404, "application/json", json.dumps({"errors": []}).encode(), "")
                return
            digest = "sha256:" + hashlib.sha256(found[1]).hexdigest()
            self._send(200, *found, digest)

        def _send(self, status: int, media_type: str, body: bytes, digest: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
