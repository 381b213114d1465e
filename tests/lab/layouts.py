"""Small images, made here, in a folder in OCI image layout; no network is needed."""

import hashlib
import io
import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any, Final

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
REF_NAME: Final = "org.opencontainers.image.ref.name"


def make_layout(layout: Path) -> None:
    """Make the folder a layout without images, if it is none yet."""
    layout.mkdir(exist_ok=True)
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    if not (layout / "index.json").exists():
        _write_index(layout, [])
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def add_image(layout: Path, tag: str, *, layers: int = 1, seed: str = "") -> str:
    """Add an image of a few small layers to a layout.

    Args:
      tag: its ``org.opencontainers.image.ref.name``; another image by that name loses it.
      seed: makes its contents, with the tag where it is empty: the same seed, the same image.

    Returns: the image's ID, ``sha256:`` and the digest of its config. The index is replaced in
    one step, after everything else is there.
    """
    tars = [_layer_tar(f"{seed or tag}-{number}") for number in range(layers)]
    config = {
        "created": "2024-01-02T03:04:05Z",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        "history": [{"created_by": f"layer {number}"} for number in range(layers)],
    }
    config_bytes = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _write_blob(layout, CONFIG_TYPE, config_bytes),
        "layers": [_write_blob(layout, LAYER_TYPE, tar) for tar in tars],
    }
    entry = _write_blob(layout, MANIFEST_TYPE, json.dumps(manifest).encode())
    entry["annotations"] = {REF_NAME: tag}
    _write_index(layout, [*_entries_without(layout, tag), entry])
    return _digest(config_bytes)


def remove_image(layout: Path, tag: str) -> str | None:
    """Take the image by this name out of the index; its blobs stay, as skopeo leaves them.

    Returns: its ID, or None where there is no such image.
    """
    gone = [entry for entry in _entries(layout) if _tag(entry) == tag]
    _write_index(layout, _entries_without(layout, tag))
    if not gone:
        return None
    manifest = json.loads(_blob_path(layout, gone[0]["digest"]).read_bytes())
    config: str = manifest["config"]["digest"]
    return config


def _layer_tar(seed: str) -> bytes:
    content = random.Random(seed).randbytes(2_000)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(f"{hashlib.sha256(seed.encode()).hexdigest()[:12]}.bin")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _write_blob(layout: Path, media_type: str, content: bytes) -> dict[str, Any]:
    digest = _digest(content)
    path = _blob_path(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _entries(layout: Path) -> list[dict[str, Any]]:
    path = layout / "index.json"
    entries: list[dict[str, Any]] = (
        json.loads(path.read_bytes())["manifests"] if path.exists() else []
    )
    return entries


def _tag(entry: dict[str, Any]) -> str | None:
    tag: str | None = entry.get("annotations", {}).get(REF_NAME)
    return tag


def _entries_without(layout: Path, tag: str) -> list[dict[str, Any]]:
    return [entry for entry in _entries(layout) if _tag(entry) != tag]


def _write_index(layout: Path, entries: list[dict[str, Any]]) -> None:
    new = layout / ".index.json.new"
    new.write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    os.replace(new, layout / "index.json")
