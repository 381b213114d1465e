"""Images in OCI layout folders, and a registry with one of them: the same bytes on every run.

Written with the standard library alone, so that no change of the product changes what is asked.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

CREATED_AT = "2026-01-01T00:00:00Z"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
REF_NAME = "org.opencontainers.image.ref.name"


def _stored_gzip(data: bytes) -> bytes:
    """The same bytes with every zlib and Python: nothing is compressed, and the system is Unix.

    Byte 9 is the operating system (RFC 1952 §2.3); Python 3.13 writes 255, "unknown", there.
    """
    stored = bytearray(gzip.compress(data, compresslevel=0, mtime=0))
    stored[9] = 3
    return bytes(stored)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(name: str, size_bytes: int) -> bytes:
    """A tar with one file of ``size_bytes``."""
    data = hashlib.shake_256(name.encode()).digest(size_bytes)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(f"opt/{name}")
        entry.size, entry.mode = size_bytes, 0o644
        tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@dataclass(frozen=True)
class FrozenImage:
    """An image: what it is called in a folder, and its uncompressed layers."""

    names: tuple[str, ...]
    layers: tuple[bytes, ...]
    created_at: str = CREATED_AT
    architecture: str = "amd64"

    @property
    def config(self) -> bytes:
        return _json(
            {
                "created": self.created_at,
                "architecture": self.architecture,
                "os": "linux",
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in self.layers]},
            }
        )

    @property
    def id(self) -> str:
        return digest_of(self.config)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Layers and config by digest."""
        layers = [_stored_gzip(tar) for tar in self.layers]
        return {digest_of(data): data for data in (*layers, self.config)}

    @property
    def manifest(self) -> bytes:
        *layers, config = self.blobs.values()
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _descriptor(CONFIG_TYPE, config),
                "layers": [_descriptor(LAYER_TYPE, data) for data in layers],
            }
        )


def write_layout(folder: Path, images: Sequence[FrozenImage]) -> None:
    """Make ``folder`` a layout of these images, whatever it was before."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for image in images:
        for digest, data in {**image.blobs, digest_of(image.manifest): image.manifest}.items():
            _replace(blobs / digest.removeprefix("sha256:"), data)
        entry = _descriptor(MANIFEST_TYPE, image.manifest)
        entries += [{**entry, "annotations": {REF_NAME: name}} for name in image.names]
        if not image.names:
            entries.append(entry)
    _replace(folder / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    _replace(folder / "index.json", _json({"schemaVersion": 2, "manifests": entries}))


@contextmanager
def registry_with(repository: str, tag: str, image: FrozenImage) -> Iterator[int]:
    """A registry on loopback that has one image. Yields its port."""
    there = {f"/v2/{repository}/blobs/{digest}": data for digest, data in image.blobs.items()}
    manifests = {
        f"/v2/{repository}/manifests/{tag}",
        f"/v2/{repository}/manifests/{digest_of(image.manifest)}",
    }
    there |= dict.fromkeys(manifests, image.manifest)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = there.get(self.path.partition("?")[0])
            body = b'{"errors": []}' if data is None else data
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest_of(body))
            media_type = MANIFEST_TYPE if body == image.manifest else "application/octet-stream"
            self.send_header("Content-Type", media_type)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients may end a connection when they like."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(data)
    os.replace(draft, path)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
