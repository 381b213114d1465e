"""Images of incompressible bytes, put straight into the folder of a registry or an OCI layout."""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tests.lab.images import CONFIG, LAYER, MANIFEST, named, write_layout

MEGABYTE: Final = 1_000_000
STORED: Final = 0
"""gzip's level for bytes that cannot be compressed: it frames them."""


class Published:
    """An image, by the name ``docker.io/library/NAME:1``.

    Args:
      tars: its layers, the base first.
      gzipped: whether its layers are published in gzip's frame, or as tars.
    """

    def __init__(self, name: str, tars: Sequence[bytes], *, gzipped: bool = True) -> None:
        self.name: Final = name
        self.reference: Final = f"{name}:1"
        self.tars: Final = list(tars)
        blobs = [gzip.compress(tar, STORED, mtime=0) if gzipped else tar for tar in tars]
        self.blob_sizes: Final = [len(blob) for blob in blobs]
        layers = [_described(LAYER + "+gzip" * gzipped, blob) for blob in blobs]
        config = self.config
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _described(CONFIG, config),
            "layers": layers,
        }
        self.manifest: Final = json.dumps(document).encode()
        self._contents: Final = {_hex(data): data for data in (*blobs, config, self.manifest)}

    @property
    def size_bytes(self) -> int:
        """F: what has to be moved to have it, compressed."""
        return sum(self.blob_sizes)

    @cached_property
    def config(self) -> bytes:
        """The image's config."""
        return json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2024-05-06T07:08:09Z",
                "config": {"Cmd": ["/nothing"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_hex(t)}" for t in self.tars]},
                "history": [{"created_by": f"layer {n}"} for n in range(len(self.tars))],
            }
        ).encode()

    def write_registry(self, root: Path) -> None:
        """Put it into the folder of a docker-registry (its filesystem driver's layout)."""
        top = root / "docker" / "registry" / "v2"
        for content, data in self._contents.items():
            _write(top / "blobs" / "sha256" / content[:2] / content / "data", data)
        repository = top / "repositories" / "library" / self.name
        manifest = _hex(self.manifest)
        links = [f"_layers/sha256/{c}/link" for c in self._contents if c != manifest]
        for path, content in [
            *zip(links, (c for c in self._contents if c != manifest), strict=True),
            (f"_manifests/revisions/sha256/{manifest}/link", manifest),
            ("_manifests/tags/1/current/link", manifest),
            (f"_manifests/tags/1/index/sha256/{manifest}/link", manifest),
        ]:
            _write(repository / path, f"sha256:{content}".encode())

    def write_layout(self, folder: Path, *others: "Published") -> None:
        """Make ``folder`` an OCI layout of it, and of these."""
        entries = []
        for image in (self, *others):
            for content, data in image._contents.items():
                _write(folder / "blobs" / "sha256" / content, data)
            entry = _described(MANIFEST, image.manifest)
            entries.append(named(entry, f"docker.io/library/{image.reference}"))
        write_layout(folder, *entries)

    def is_in_layout(self, folder: Path) -> bool:
        """Whether all its blobs are in a layout folder, byte for byte."""
        paths = {c: folder / "blobs" / "sha256" / c for c in self._contents}
        return all(
            paths[content].is_file() and paths[content].read_bytes() == data
            for content, data in self._contents.items()
        )

    def write_archive(self, path: Path) -> None:
        """As ``docker load`` takes it: the tars, without any compressed blob."""
        image = _hex(self.config)
        names = [f"{number}/layer.tar" for number in range(len(self.tars))]
        entry = {"Config": f"{image}.json", "RepoTags": [self.reference], "Layers": names}
        files: Mapping[str, bytes] = {
            f"{image}.json": self.config,
            **dict(zip(names, self.tars, strict=True)),
            "manifest.json": json.dumps([entry]).encode(),
        }
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def random_tar(size_bytes: int, seed: str) -> bytes:
    """Make a layer of one file that does not compress; the same bytes for the same seed."""
    generator = random.Random(seed)
    content = b"".join(
        generator.randbytes(min(MEGABYTE, size_bytes - start))
        for start in range(0, size_bytes, MEGABYTE)
    )
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(f"file-{hashlib.sha256(seed.encode()).hexdigest()[:12]}")
        member.size, member.mtime = size_bytes, 1_700_000_000
        tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def random_image(name: str, layer_bytes: Sequence[int], *, gzipped: bool = True) -> Published:
    """An image with a layer of each of these sizes."""
    tars = [random_tar(size, f"{name}-{number}") for number, size in enumerate(layer_bytes)]
    return Published(name, tars, gzipped=gzipped)


def usual_layers(megabytes: int) -> list[int]:
    """The sizes of six layers of an application's image; their sum is the given number of MB."""
    return [int(megabytes * MEGABYTE * share) for share in (0.35, 0.25, 0.2, 0.1, 0.07, 0.03)]


def _described(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{_hex(data)}", "size": len(data)}


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
