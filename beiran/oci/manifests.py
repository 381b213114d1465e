"""Decodes manifests, indexes and configs from the network, checks them and limits their size.

The pull, the mirror and the engines call it. It rejects schema 1, as Docker does since 2023.

Source: OCI image specification (manifest.md, image-index.md, config.md, descriptor.md); Docker
image manifest version 2, schema 2.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.images import LAYERS_MAX

MANIFEST_BYTES_MAX: Final = 4 * 2**20  # OCI distribution specification, "Pushing Manifests"
CONFIG_BYTES_MAX: Final = 8 * 2**20
"""A config takes some KiB. The limit bounds memory, at twice that of a manifest; chosen, not
measured."""
MANIFESTS_MAX: Final = 1024
"""Manifests in one index, which lists some tens of platforms. Chosen, not measured."""
BLOB_BYTES_MAX: Final = 2**44  # 16 TiB: larger than any layer, and exact in a float; chosen

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
UNPACKED_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
MANIFEST_TYPES: Final = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_INDEX)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"

DigestText = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
SizeBytes = Annotated[int, Meta(ge=0, le=BLOB_BYTES_MAX)]
T = TypeVar("T")


class BadManifest(ValueError):
    """A manifest, index or config is invalid. The message is one line."""


class Platform(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The platform of an image. ``variant`` is the version of an ARM architecture."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(Struct, frozen=True, rename="camel", kw_only=True):
    """A reference to a blob or manifest by digest. OCI image specification, descriptor.md."""

    digest: DigestText
    size: SizeBytes
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def raw(self) -> Digest:
        """The digest's bytes."""
        return parse_digest(self.digest)


class ImageManifest(Struct, frozen=True, rename="camel", kw_only=True):
    """The manifest of one image: its config, and its layers from the base up."""

    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(max_length=LAYERS_MAX)]
    media_type: str = ""


class Index(Struct, frozen=True, rename="camel", kw_only=True):
    """A list of manifests, usually one for each platform."""

    manifests: Annotated[tuple[Descriptor, ...], Meta(max_length=MANIFESTS_MAX)]
    media_type: str = ""


class RootFs(Struct, frozen=True):
    """The diff IDs of an image's layers, from the base up."""

    diff_ids: Annotated[tuple[DigestText, ...], Meta(max_length=LAYERS_MAX)]


class ImageConfig(Struct, frozen=True, kw_only=True):
    """The fields of an image's config that the agent uses."""

    rootfs: RootFs
    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str | None = None

    @property
    def diff_ids(self) -> list[Digest]:
        """The digests of the layers' uncompressed tars, from the base up."""
        return [parse_digest(text) for text in self.rootfs.diff_ids]


class _Kind(Struct, rename="camel"):
    schema_version: int = 2
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw(b"")  # empty if the document has no such field


def digest_of(data: bytes) -> Digest:
    """The SHA-256 of ``data``."""
    return Digest(hashlib.sha256(data).digest())


def read_manifest(data: bytes) -> ImageManifest | Index:
    """Decode a manifest or an index.

    Raises: BadManifest if it is neither, too large, of schema 1, or exceeds another limit.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise BadManifest(f"a manifest of {len(data)} bytes; at most {MANIFEST_BYTES_MAX} are read")
    kind = _decode(data, _Kind, "manifest")
    if kind.schema_version != 2 or kind.media_type.startswith(_SCHEMA_1):
        raise BadManifest("a manifest of schema 1, which is no longer supported; push it anew")
    if kind.media_type in INDEX_TYPES or (
        not kind.media_type and bytes(kind.manifests) not in (b"", b"null")
    ):
        return _decode(data, Index, "index")
    return _decode(data, ImageManifest, "manifest")


def schema_2_manifest(config: Descriptor, layers: Iterable[Descriptor]) -> bytes:
    """Encode a manifest. Each node makes the same bytes, and so the same digest.

    The fields and their order are those that Docker 26.1 writes to containerd's store when it loads
    an image, so the digest is the same there. The config keeps its digest, so the image keeps its
    ID on a graph driver.

    Source: Docker image manifest version 2, schema 2.
    """
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": _row(config, DOCKER_CONFIG),
            "layers": [_row(layer, layer.media_type) for layer in layers],
        }
    )


def unpacked_layer(diff_id: Digest, tar_bytes: int) -> Descriptor:
    """The descriptor of a layer that is sent as an uncompressed tar."""
    return Descriptor(media_type=UNPACKED_LAYER, size=tar_bytes, digest=digest_text(diff_id))


def media_type_of(data: bytes) -> str:
    """The media type in a manifest or index; without one, OCI's type for its fields.

    Raises: BadManifest.
    """
    document = read_manifest(data)
    if document.media_type:
        return document.media_type
    return OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST


def read_config(data: bytes) -> ImageConfig:
    """Decode an image's config. Raises: BadManifest."""
    if len(data) > CONFIG_BYTES_MAX:
        raise BadManifest(f"a config of {len(data)} bytes; at most {CONFIG_BYTES_MAX} are read")
    return _decode(data, ImageConfig, "config")


def choose_platform(index: Index, wanted: Sequence[Platform]) -> Descriptor | None:
    """Choose the first manifest of an index for the first of ``wanted`` that it has.

    A wanted platform without a variant matches each variant. Attestations match no platform.
    Returns: None if nothing matches.
    """
    for platform in wanted:
        for descriptor in index.manifests:
            has = descriptor.platform
            if (
                has is not None
                and has.os == platform.os
                and has.architecture == platform.architecture
                and platform.variant in ("", has.variant)
            ):
                return descriptor
    return None


def parse_platform(text: str) -> Platform:
    """Parse ``linux/amd64`` or ``linux/arm/v7``. Raises: ValueError."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(part.isalnum() and part.isascii() for part in parts):
        raise ValueError(f"{text!r} is not a platform such as linux/amd64 or linux/arm/v7")
    return Platform(os=parts[0], architecture=parts[1], variant="".join(parts[2:]))


def _row(descriptor: Descriptor, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size}


def _decode(data: bytes, type: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}: {error}") from None
