"""Content-addressed folders of blobs, as an OCI image layout and containerd's content store are.

Reads what an index or a manifest leads to. Everything in such a folder may be broken, half
written or hostile: what cannot be read is left out, and named in ``Contents.problems``.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from beiran.engine.interface import Manifest
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.images import LAYERS_MAX
from beiran.oci.manifests import BadManifest, digest_of, media_type_of

DOCUMENT_BYTES_MAX: Final = 8 * 2**20  # containerd MaxManifestSize (remotes/handlers.go)
INDEX_DEPTH_MAX: Final = 8  # chosen: registries nest indexes once
DESCRIPTORS_MAX: Final = 10_000
"""Descriptors that one scan follows. An index with more is taken for an attack."""
NOT_AN_IMAGE: Final = "vnd.docker.reference.type"
"""Annotation by which BuildKit marks attestation manifests."""

T = TypeVar("T")


class Platform(Struct):
    """Where an image runs."""

    os: str = ""
    architecture: str = ""


class Descriptor(Struct, rename="camel"):
    """A pointer to a blob. OCI image specification, descriptor.md."""

    digest: str = ""
    media_type: str = ""
    size: int = -1
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Document(Struct, rename="camel"):
    """An index (``manifests``) or a manifest (``config`` and ``layers``)."""

    media_type: str = ""
    manifests: list[Descriptor] | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None


class _RootFs(Struct):
    diff_ids: list[str]


class _Config(Struct):
    rootfs: _RootFs
    os: str = ""
    architecture: str = ""
    created: str | None = None


class BadContent(Exception):
    """A blob is not what its descriptor says, or cannot be read. One line."""


class MissingContent(Exception):
    """A blob is not there."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as it lies in the folder: usually compressed."""

    diff_id: Digest
    digest: Digest
    media_type: str
    size_bytes: int = -1
    """Of the blob, as its manifest says."""


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """An image whose manifest, config and layers are all there."""

    config: Digest
    os: str
    architecture: str
    created_at: str
    layers: tuple[LayerBlob, ...]
    manifest: Digest


@dataclass(slots=True)
class Contents:
    """The images behind a descriptor, and the problems on the way."""

    images: list[PlatformImage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class BlobFolder:
    """A folder with ``blobs/sha256/…``, or for containerd the one above ``blobs``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"

    def path(self, digest: Digest) -> Path:
        """The path of the blob with this digest, whether it exists or not."""
        return self.blobs / digest.hex()

    def has(self, digest: Digest) -> bool:
        """Whether it exists and may be read."""
        try:
            return self.path(digest).is_file()
        except OSError:
            return False

    def size_bytes(self, digest: Digest) -> int | None:
        """How large the blob with this digest is; None when it is not there."""
        try:
            status = self.path(digest).stat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read_bytes(self, digest: Digest) -> bytes:
        """A small blob, verified. Raises: MissingContent; BadContent."""
        data = read_small_file(self.path(digest))
        if hashlib.sha256(data).digest() != digest:
            raise BadContent(f"{digest_text(digest)} has another digest")
        return data

    def read(self, descriptor: Descriptor, document: type[T]) -> T:
        """The JSON that ``descriptor`` points to, verified.

        Raises: MissingContent; BadContent.
        """
        digest = _digest(descriptor)
        text = digest_text(digest)
        data = read_small_file(self.path(digest))
        if descriptor.size >= 0 and len(data) != descriptor.size:
            raise BadContent(f"{text} has {len(data)} bytes; its descriptor says {descriptor.size}")
        if hashlib.sha256(data).digest() != digest:
            raise BadContent(f"{text} has another digest")
        try:
            return msgspec.json.decode(data, type=document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadContent(f"{text}: {error}") from None

    def find_images(self, root: Descriptor) -> Contents:
        """All images behind ``root``, which may be a manifest, an index, or one of indexes."""
        contents = Contents()
        seen: set[str] = set()
        self._find(root, 0, seen, contents)
        return contents

    def _find(self, descriptor: Descriptor, depth: int, seen: set[str], into: Contents) -> None:
        if _is_no_image(descriptor) or descriptor.digest in seen:
            return
        seen.add(descriptor.digest)
        if depth > INDEX_DEPTH_MAX or len(seen) > DESCRIPTORS_MAX:
            into.problems.append(f"{descriptor.digest[:80]}: too many indexes in one another")
            return
        try:
            document = self.read(descriptor, Document)
            if document.manifests is not None:
                for child in document.manifests:
                    self._find(child, depth + 1, seen, into)
            elif document.config is not None:
                manifest = _digest(descriptor)
                image = self._read_image(manifest, document.config, document.layers or [])
                if image is not None:
                    into.images.append(image)
        except MissingContent:
            # An index often lists more platforms than were fetched.
            return
        except BadContent as problem:
            into.problems.append(str(problem))

    def _read_image(
        self, manifest: Digest, config: Descriptor, layers: list[Descriptor]
    ) -> PlatformImage | None:
        if len(layers) > LAYERS_MAX:
            raise BadContent(f"{config.digest[:80]}: {len(layers)} layers, {LAYERS_MAX} at most")
        blobs = [_digest(layer) for layer in layers]
        if "config" not in config.media_type and "container.image" not in config.media_type:
            return None  # an artifact: signatures, charts and the like
        parsed = self.read(config, _Config)
        if len(parsed.rootfs.diff_ids) != len(layers):
            raise BadContent(f"{config.digest}: its layers are not those of its manifest")
        if not all(self.has(blob) for blob in blobs):
            raise MissingContent
        try:
            diff_ids = [parse_digest(text) for text in parsed.rootfs.diff_ids]
        except ValueError as error:
            raise BadContent(f"{config.digest}: {error}") from None
        return PlatformImage(
            config=_digest(config),
            os=parsed.os,
            architecture=parsed.architecture,
            created_at=utc_time(parsed.created),
            layers=tuple(
                LayerBlob(diff_id, blob, layer.media_type, layer.size)
                for diff_id, blob, layer in zip(diff_ids, blobs, layers, strict=True)
            ),
            manifest=manifest,
        )


def as_manifest(data: bytes, digest: Digest) -> Manifest | None:
    """The manifest or index that ``data`` is; None when it is neither, or not what it should be."""
    if digest_of(data) != digest:
        return None
    try:
        return Manifest(media_type_of(data), data)
    except BadManifest:
        return None


def read_small_file(path: Path) -> bytes:
    """The bytes of a regular file of at most ``DOCUMENT_BYTES_MAX``.

    Raises: MissingContent when there is none; BadContent.
    """
    try:
        # A FIFO would make open() wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingContent(str(path)) from None
    except (OSError, ValueError) as error:
        raise BadContent(f"{path}: {error}") from None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadContent(f"{path} is not a file")
        try:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
        except OSError as error:
            raise BadContent(f"{path}: {error.strerror}") from None
    if len(data) > DOCUMENT_BYTES_MAX:
        raise BadContent(f"{path} has over {DOCUMENT_BYTES_MAX} bytes")
    return data


def _digest(descriptor: Descriptor) -> Digest:
    try:
        return parse_digest(descriptor.digest)
    except ValueError as error:
        raise BadContent(str(error)[:200]) from None


def _is_no_image(descriptor: Descriptor) -> bool:
    """Whether it is an attestation, which runs nowhere."""
    platform = descriptor.platform
    unknown = platform is not None and platform.os == platform.architecture == "unknown"
    return unknown or NOT_AN_IMAGE in (descriptor.annotations or {})


_RFC_3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII
)


def utc_time(text: str | None) -> str:
    """A time of RFC 3339 in UTC with no zeros at the end of its fraction, or empty.

    Engines write the same time in several ways; Go's zero time (year 1) means that there is none.
    """
    parts = _RFC_3339.fullmatch(text or "")
    if parts is None or parts[1].startswith("0001-"):
        return ""
    try:
        moment = datetime.fromisoformat(parts[1] + parts[3]).astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    fraction = (parts[2] or "")[:9].rstrip("0")
    return moment.replace(tzinfo=None).isoformat() + (f".{fraction}" if fraction else "") + "Z"
