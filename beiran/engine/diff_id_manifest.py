"""The manifest of an image by diff IDs, which every holder of the image makes alike.

A graph driver keeps no manifest and no compressed blobs. With the config as it is and the layers'
tars as blobs it can still answer as a registry does, and the image keeps its ID. The bytes
depend on the image alone, so that all holders get the same digest. Docker 26.1 makes the same
manifest when it loads an image into containerd's store.

Source: Docker image manifest version 2, schema 2; moby (image/tarexport/save.go) for the media type
of layers that are not compressed.
"""

from collections.abc import Iterable

from beiran.engine.interface import Manifest
from beiran.ids import Digest, digest_text
from beiran.oci.manifests import (
    DOCKER_MANIFEST,
    UNPACKED_LAYER,
    BadManifest,
    Descriptor,
    ImageManifest,
    read_manifest,
    schema_2_manifest,
    unpacked_layer,
)


def diff_id_manifest(
    config: Digest, config_bytes: int, layers: Iterable[tuple[Digest, int]]
) -> Manifest:
    """The manifest of the image with this config.

    Args:
      layers: the diff ID and the length of the tar of each layer, the base first.
    """
    document = schema_2_manifest(
        Descriptor(digest=digest_text(config), size=config_bytes),
        (unpacked_layer(diff_id, size) for diff_id, size in layers),
    )
    return Manifest(DOCKER_MANIFEST, document)


def is_by_diff_ids(manifest: Manifest) -> bool:
    """Whether all layers of a manifest are uncompressed tars, so that any holder may give it."""
    try:
        document = read_manifest(manifest.data)
    except BadManifest:
        return False
    return isinstance(document, ImageManifest) and all(
        layer.media_type == UNPACKED_LAYER for layer in document.layers
    )
