"""Archives for ``docker load``, made while they are sent and never stored.

A graph driver takes Docker's own format. Layers that it has may be left out: it looks for them by
chain ID first. containerd's store takes an OCI layout without the blobs that it has, and refuses
Docker's format if a layer is missing.
"""

import json
import tarfile
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from beiran.engine.interface import BlobReader, ImageToLoad, LayerToLoad, Manifest
from beiran.engine.layers.blob_reader import read_all
from beiran.errors import EngineRefused
from beiran.ids import Digest, digest_text
from beiran.oci.manifests import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_INDEX,
    UNPACKED_LAYER,
    BadManifest,
    Descriptor,
    ImageManifest,
    digest_of,
    read_manifest,
    schema_2_manifest,
)

CONTAINERD_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"
LAYOUT_FILE: Final = b'{"imageLayoutVersion":"1.0.0"}'
_BLOCK_BYTES: Final = 512
_END: Final = bytes(2 * _BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive."""

    name: str
    content: bytes | BlobReader

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size_bytes

    @property
    def padding(self) -> bytes:
        """Zeros that follow it in the archive."""
        return bytes(-self.size_bytes % _BLOCK_BYTES)

    def header(self) -> bytes:
        """The header that precedes it in the archive."""
        info = tarfile.TarInfo(self.name)
        info.size = self.size_bytes
        return info.tobuf(tarfile.GNU_FORMAT)


async def archive(entries: Sequence[Entry]) -> AsyncGenerator[bytes, None]:
    """A tar of these files, made while it is read. Raises: DataError from what they hold."""
    for entry in entries:
        yield entry.header()
        if isinstance(entry.content, bytes):
            yield entry.content
        else:
            async with read_all(entry.content) as chunks:
                async for chunk in chunks:
                    yield chunk
        yield entry.padding
    yield _END


def docker_format(image: ImageToLoad, missing: Iterable[Digest]) -> list[Entry]:
    """``manifest.json``, the config, and the layers that are ``missing``.

    Raises: EngineRefused when one of them is not given.
    Source: moby, image/tarexport/load.go.
    """
    given = {layer.diff_id: layer.blob for layer in image.layers if layer.blob is not None}
    config = f"{digest_of(image.config).hex()}.json"
    row = {
        "Config": config,
        "RepoTags": list(image.tags) or None,
        "Layers": [_layer_name(layer.diff_id) for layer in image.layers],
    }
    entries = [Entry("manifest.json", json.dumps([row]).encode()), Entry(config, image.config)]
    for diff_id in dict.fromkeys(missing):
        if diff_id not in given:
            raise _lacks(diff_id)
        entries.append(Entry(_layer_name(diff_id), given[diff_id]))
    return entries


def _layer_name(diff_id: Digest) -> str:
    return f"{diff_id.hex()}.tar"


def choose_manifest(
    image: ImageToLoad,
    has_blob: Callable[[Digest], bool],
    local_form: Callable[[Digest], Descriptor | None],
) -> Manifest:
    """The manifest by which a store that keeps blobs will hold ``image``.

    The published one where all blobs that it names are there or given. Otherwise one is made of
    the forms in which each layer is given or there.

    Args:
      has_blob: whether the store has a blob.
      local_form: in which form it has the layer with a diff ID.

    Raises: EngineRefused when a layer is neither there nor given.
    """
    given = {_blob_digest(layer) for layer in image.layers if layer.blob is not None}
    config = digest_of(image.config)
    if image.manifest is not None:
        named = _named_blobs(image.manifest, config)
        if named is not None and all(blob in given or has_blob(blob) for blob in named):
            return image.manifest
    layers = []
    for layer in image.layers:
        form = local_form(layer.diff_id) if layer.blob is None else _given_form(layer)
        if form is None:
            raise _lacks(layer.diff_id)
        layers.append(form)
    document = Descriptor(
        media_type=DOCKER_CONFIG, digest=digest_text(config), size=len(image.config)
    )
    return Manifest(DOCKER_MANIFEST, schema_2_manifest(document, layers))


def _named_blobs(manifest: Manifest, config: Digest) -> list[Digest] | None:
    """The layers of a manifest; None when it is not one of the image with this config."""
    try:
        document = read_manifest(manifest.data)
    except BadManifest:
        return None
    if not isinstance(document, ImageManifest) or document.config.raw != config:
        return None
    return [layer.raw for layer in document.layers]


def _blob_digest(layer: LayerToLoad) -> Digest:
    return layer.diff_id if layer.digest is None else layer.digest


def _given_form(layer: LayerToLoad) -> Descriptor:
    assert layer.blob is not None
    return Descriptor(
        media_type=layer.media_type or UNPACKED_LAYER,
        digest=digest_text(_blob_digest(layer)),
        size=layer.blob.size_bytes,
    )


def given_blobs(image: ImageToLoad) -> dict[Digest, BlobReader]:
    """The layers that come with ``image``, by the digests of their blobs."""
    return {_blob_digest(layer): layer.blob for layer in image.layers if layer.blob is not None}


def named_descriptors(manifest: Manifest, names: Sequence[str]) -> list[dict[str, object]]:
    """The rows of an ``index.json`` for a manifest: one for each of its names, at least one."""
    row = {
        "mediaType": manifest.media_type,
        "digest": digest_text(manifest.digest),
        "size": len(manifest.data),
    }
    if not names:
        return [row]
    return [{**row, "annotations": {CONTAINERD_NAME: name, REF_NAME: name}} for name in names]


def layout_format(image: ImageToLoad, manifest: Manifest) -> list[Entry]:
    """An OCI layout of ``manifest``, the config, and the layers that are given."""
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": named_descriptors(manifest, image.tags),
    }
    return [
        Entry("oci-layout", LAYOUT_FILE),
        Entry("index.json", json.dumps(index).encode()),
        Entry(_blob_name(manifest.digest), manifest.data),
        Entry(_blob_name(digest_of(image.config)), image.config),
        *(Entry(_blob_name(digest), blob) for digest, blob in given_blobs(image).items()),
    ]


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex()}"


def _lacks(diff_id: Digest) -> EngineRefused:
    return EngineRefused(f"layer {digest_text(diff_id)} is neither in the engine nor given to it")
