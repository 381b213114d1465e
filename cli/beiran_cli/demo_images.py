"""Writes the demo's small images into OCI layout folders, without Docker.

The same names give the same bytes each time, so two folders hold the same image when they are
given the same one. Source: OCI image specification, image-layout.md, config.md, manifest.md.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CREATED_AT: Final = "2026-01-01T00:00:00Z"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class DemoLayer:
    """A layer before it is written: paths, and the bytes of their files."""

    files: tuple[tuple[str, bytes], ...]

    def tar(self) -> bytes:
        """Its uncompressed tar; its SHA-256 is the diff ID."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, data in self.files:
                entry = tarfile.TarInfo(path)
                entry.size = len(data)
                entry.mode = 0o644
                tar.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


@dataclass(frozen=True)
class DemoImage:
    """An image before it is written. The base layer comes first."""

    tag: str
    layers: tuple[DemoLayer, ...]

    def config(self) -> bytes:
        """Its config; its SHA-256 is the image's ID."""
        return _json(
            {
                "created": CREATED_AT,
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [_digest(layer.tar()) for layer in self.layers],
                },
                "history": [
                    {"created": CREATED_AT, "created_by": f"COPY layer {place}"}
                    for place, _ in enumerate(self.layers)
                ],
            }
        )

    @property
    def id(self) -> str:
        """``sha256:`` and the digest of its config."""
        return _digest(self.config())


def demo_layer(name: str, size_bytes: int) -> DemoLayer:
    """Make a layer of two files: its name, and ``size_bytes`` that do not compress."""
    data = hashlib.shake_256(name.encode()).digest(size_bytes)
    return DemoLayer(((f"opt/{name}/data", data), (f"opt/{name}/README", f"{name}\n".encode())))


def make_layout(folder: Path) -> None:
    """Make an empty layout in ``folder``, which may exist."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    _replace(folder / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    _write_index(folder, [])


def add_image(folder: Path, image: DemoImage) -> None:
    """Write ``image`` into the layout: blobs before the index that names them."""
    layers = [
        _put(folder, LAYER_TYPE, gzip.compress(layer.tar(), compresslevel=1, mtime=0))
        for layer in image.layers
    ]
    config = _put(folder, CONFIG_TYPE, image.config())
    manifest = _put(
        folder,
        MANIFEST_TYPE,
        _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": config,
                "layers": layers,
            }
        ),
    )
    index = json.loads((folder / "index.json").read_bytes())
    annotations = {"org.opencontainers.image.ref.name": image.tag}
    _write_index(folder, [*index["manifests"], {**manifest, "annotations": annotations}])


def _put(folder: Path, media_type: str, data: bytes) -> dict[str, object]:
    """Store a blob and return its descriptor."""
    digest = _digest(data)
    _replace(folder / "blobs" / "sha256" / digest.removeprefix("sha256:"), data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _write_index(folder: Path, manifests: list[Mapping[str, object]]) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    _replace(folder / "index.json", _json(index))


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one step, so that no reader sees half of it."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(data)
    os.replace(draft, path)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
