"""Images made by hand, so that every byte of them is known, and ways to bring them to an engine."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import zstandard

Compression = Literal["none", "gzip", "zstd"]

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
REF_NAME: Final = "org.opencontainers.image.ref.name"


def sha256_text(data: bytes) -> str:
    """``sha256:`` and the digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def files_tar(files: Mapping[str, bytes]) -> bytes:
    """A layer of regular files."""
    return entries_tar([(_regular(name, data), data) for name, data in files.items()])


def entries_tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A layer of any entries."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in entries:
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _regular(name: str, data: bytes, **fields: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_700_000_000
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry


def odd_layers() -> list[bytes]:
    """Two layers with what makes layers hard: links, whiteouts, long and strange names, xattrs."""
    folder = _regular("d", b"", type=tarfile.DIRTYPE, mode=0o755)
    long_name = "d/" + "/".join(["deep" * 20] * 4)
    script = b"#!/bin/sh\necho hello\n"
    base = [
        (folder, b""),
        (_regular("d/file", b"x" * 70_000), b"x" * 70_000),
        (_regular("d/empty", b""), b""),
        (_regular("d/gone", b"removed by the next layer"), b"removed by the next layer"),
        (_regular("d/symlink", b"", type=tarfile.SYMTYPE, linkname="../etc/passwd"), b""),
        (_regular("d/hardlink", b"", type=tarfile.LNKTYPE, linkname="d/file"), b""),
        (_regular(long_name, b"long"), b"long"),
        (_regular("d/ünïcödé name\nwith newline", b"odd"), b"odd"),
        (_regular("d/script", script, mode=0o4755, uid=1000, gid=100), script),
        (
            _regular("d/xattr", b"xattr", pax_headers={"SCHILY.xattr.user.beiran": "some value"}),
            b"xattr",
        ),
        (_regular("d/fifo", b"", type=tarfile.FIFOTYPE), b""),
        (_regular("l", b"", type=tarfile.SYMTYPE, linkname="d"), b""),
    ]
    above = [
        (_regular("d", b"", type=tarfile.DIRTYPE, mode=0o755), b""),
        (_regular("d/.wh.gone", b""), b""),
        (_regular("e", b"", type=tarfile.DIRTYPE, mode=0o700), b""),
        (_regular("e/.wh..wh..opq", b""), b""),
        (_regular("e/new", b"new"), b"new"),
    ]
    return [entries_tar(base), entries_tar(above)]


@dataclass(frozen=True)
class MadeImage:
    """An image of which everything is known. ``sizes`` are the bytes of files in each layer."""

    layers: tuple[bytes, ...]
    sizes: tuple[int, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"
    created: str = "2024-05-06T07:08:09.123456789Z"

    @property
    def diff_ids(self) -> list[str]:
        """Of its layers, the base first."""
        return [sha256_text(layer) for layer in self.layers]

    @property
    def config(self) -> bytes:
        """Its config, with an empty step before each layer and one after the last."""
        empty = {"created": self.created, "created_by": "ENV A=1", "empty_layer": True}
        history: list[dict[str, object]] = []
        for number in range(len(self.layers)):
            history += [empty, {"created": self.created, "created_by": f"COPY layer {number}"}]
        return json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "created": self.created,
                "config": {"Labels": dict(self.labels), "Cmd": ["/nothing"]},
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
                "history": [*history, empty],
            }
        ).encode()

    @property
    def id(self) -> str:
        """The digest of its config, in text."""
        return sha256_text(self.config)

    def archive(self, *tags: str) -> bytes:
        """As ``docker load`` takes it."""
        return docker_archive((self, tags))

    def write_blobs(self, folder: Path, compression: Compression = "gzip") -> dict[str, Any]:
        """Put its blobs into a layout folder. Returns: the descriptor of its manifest."""
        config = {"mediaType": CONFIG, **write_blob(folder, self.config)}
        layers = []
        for layer in self.layers:
            suffix = "" if compression == "none" else f"+{compression}"
            blob = write_blob(folder, compress(layer, compression))
            layers.append({"mediaType": LAYER + suffix, **blob})
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        blob = write_blob(folder, json.dumps(manifest).encode())
        platform = {"os": "linux", "architecture": self.architecture}
        return {"mediaType": MANIFEST, **blob, "platform": platform}


def made_image(*layers: Mapping[str, bytes], **fields: Any) -> MadeImage:
    """An image with these files in its layers, the base first."""
    sizes = tuple(sum(map(len, files.values())) for files in layers)
    return MadeImage(tuple(map(files_tar, layers)), sizes, **fields)


def docker_archive(*images: tuple[MadeImage, Sequence[str]]) -> bytes:
    """Some images and their tags, as ``docker load`` takes them."""
    files: dict[str, bytes] = {}
    manifests = []
    for image, tags in images:
        folder = image.id.removeprefix("sha256:")
        names = [f"{folder}/{number}/layer.tar" for number in range(len(image.layers))]
        files.update(zip(names, image.layers, strict=True))
        files[f"{folder}.json"] = image.config
        manifests.append(
            {"Config": f"{folder}.json", "RepoTags": list(tags) or None, "Layers": names}
        )
    return files_tar({**files, "manifest.json": json.dumps(manifests).encode()})


def odd_image() -> MadeImage:
    """An image of ``odd_layers``."""
    # A symlink is as long as its target on disk; a hard link is counted once.
    base = 70_000 + 25 + len("../etc/passwd") + 4 + 3 + 21 + 5 + len("d")
    return MadeImage(tuple(odd_layers()), (base, 3))


def compress(data: bytes, compression: Compression) -> bytes:
    """``data`` as a layer's blob."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(1).compress(data)
    return data


def write_blob(folder: Path, data: bytes) -> dict[str, Any]:
    """Put a blob into a layout folder. Returns: its descriptor, without a media type."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    digest = sha256_text(data)
    part = blobs.parent / (digest.removeprefix("sha256:") + ".part")
    part.write_bytes(data)
    part.rename(blobs / digest.removeprefix("sha256:"))
    return {"digest": digest, "size": len(data)}


def named(descriptor: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A descriptor for ``index.json`` under a name."""
    return {**descriptor, "annotations": {REF_NAME: name}}


def write_layout(folder: Path, *manifests: Mapping[str, Any]) -> None:
    """Make ``folder`` an OCI image layout of these, at one stroke."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
    part = folder / "index.json.part"
    part.write_text(json.dumps(index))
    part.rename(folder / "index.json")


def docker(socket_path: str, *arguments: str, stdin: bytes = b"") -> str:
    """Run ``docker`` on an engine. Returns: what it prints."""
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "DOCKER_HOST": f"unix://{socket_path}", "DOCKER_BUILDKIT": "0"},
    )
    if done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode().strip()


def load_image(socket_path: str, image: MadeImage, *tags: str) -> None:
    """``docker load``."""
    docker(socket_path, "load", stdin=image.archive(*tags))


def build_image(socket_path: str, tag: str | None, *layers: Mapping[str, bytes]) -> str:
    """``docker build`` FROM scratch, with a layer of files for each of ``layers``.

    Returns: the image's ID, as the engine reports it.
    """
    files: dict[str, bytes] = {}
    steps = ["FROM scratch", "LABEL made=by-hand"]
    for number, layer in enumerate(layers):
        files.update({f"{number}/{name}": data for name, data in layer.items()})
        steps += [f"COPY {number}/ /", f"ENV STEP={number}"]
    files["Dockerfile"] = "\n".join(steps).encode()
    names = [] if tag is None else ["-t", tag]
    return docker(socket_path, "build", "-q", *names, "-", stdin=files_tar(files)).split()[-1]


def remove_everything(socket_path: str) -> None:
    """Remove all containers and images of an engine."""
    for container in docker(socket_path, "ps", "-aq").split():
        docker(socket_path, "rm", "-f", container)
    for _ in range(3):  # images that others are built on go after those
        ids = set(docker(socket_path, "images", "-aq", "--no-trunc").split())
        if not ids:
            return
        subprocess.run(
            ["docker", "-H", f"unix://{socket_path}", "rmi", "-f", *ids],
            capture_output=True,
            check=False,
        )
