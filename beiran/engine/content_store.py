"""Reads content-addressed folders of blobs: OCI image layouts and containerd's content store.

``BlobFolder.find_images`` follows an index or a manifest to its images. The folder is untrusted:
files may be broken, half written or hostile. The reader skips an image that it cannot read, and
lists the reason in ``Contents.problems``. The engines for layouts and for Docker call it.
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
INDEX_DEPTH_MAX: Final = 8
"""Indexes inside one another. Registries nest them once; chosen, not measured."""
DESCRIPTORS_MAX: Final = 10_000
"""Descriptors that one scan follows. It bounds the work that a hostile index can cause. An image
index lists some tens of descriptors; chosen, not measured."""
NOT_AN_IMAGE: Final = "vnd.docker.reference.type"
"""The annotation with which BuildKit marks attestation manifests."""

T = TypeVar("T")


class Platform(Struct):
    """The operating system and architecture of an image."""

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
    """A blob does not match its descriptor, or is unreadable. The message is one line."""


class MissingContent(Exception):
    """The folder lacks a blob."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer's blob in the folder, usually compressed."""

    diff_id: Digest
    digest: Digest
    media_type: str
    size_bytes: int = -1
    """Size of the blob according to its manifest; -1 if the manifest gives none."""


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """An image for one platform whose manifest, config and layers the folder has."""

    config: Digest
    os: str
    architecture: str
    created_at: str
    layers: tuple[LayerBlob, ...]
    manifest: Digest


@dataclass(slots=True)
class Contents:
    """The images that a descriptor leads to, and the problems met on the way."""

    images: list[PlatformImage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class BlobFolder:
    """The folder above ``blobs/sha256/``, in a layout and in containerd's content store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"

    def path(self, digest: Digest) -> Path:
        """The path of the blob with this digest. The file may be missing."""
        return self.blobs / digest.hex()

    def has(self, digest: Digest) -> bool:
        """Whether the folder has the blob with this digest."""
        try:
            return self.path(digest).is_file()
        except OSError:
            return False

    def size_bytes(self, digest: Digest) -> int | None:
        """The size of the blob with this digest; None if the folder lacks it."""
        try:
            status = self.path(digest).stat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read_bytes(self, digest: Digest) -> bytes:
        """Read a small blob, and verify its digest. Raises: MissingContent; BadContent."""
        data = read_small_file(self.path(digest))
        if hashlib.sha256(data).digest() != digest:
            raise BadContent(f"{digest_text(digest)} has another digest")
        return data

    def read(self, descriptor: Descriptor, document: type[T]) -> T:
        """Read the JSON document that ``descriptor`` points to, and verify its digest.

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
        """Find all images behind ``root``: a manifest, an index, or an index of indexes."""
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
            return  # usual: engines fetch one platform of an index that lists several
        except BadContent as problem:
            into.problems.append(str(problem))

    def _read_image(
        self, manifest: Digest, config: Descriptor, layers: list[Descriptor]
    ) -> PlatformImage | None:
        if len(layers) > LAYERS_MAX:
            raise BadContent(f"{config.digest[:80]}: {len(layers)} layers, {LAYERS_MAX} at most")
        blobs = [_digest(layer) for layer in layers]
        if "config" not in config.media_type and "container.image" not in config.media_type:
            return None  # an artifact such as a signature or a Helm chart
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
    """Read a manifest or index; None if it is neither, or if its digest is not ``digest``."""
    if digest_of(data) != digest:
        return None
    try:
        return Manifest(media_type_of(data), data)
    except BadManifest:
        return None


def read_small_file(path: Path) -> bytes:
    """Read a regular file of at most ``DOCUMENT_BYTES_MAX``.

    Raises: MissingContent if there is no such file; BadContent if it is unreadable or larger.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer for ever.
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
    """Whether a descriptor is BuildKit's attestation: it has no platform to run on."""
    platform = descriptor.platform
    unknown = platform is not None and platform.os == platform.architecture == "unknown"
    return unknown or NOT_AN_IMAGE in (descriptor.annotations or {})


_RFC_3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII
)


def utc_time(text: str | None) -> str:
    """Convert an RFC 3339 time to UTC, without zeros at the end of its fraction.

    Engines write the same time in several ways, and nodes compare descriptions byte for byte.

    Returns: the time; empty for an unreadable one and for Go's zero time (year 1), which stands
    for "none".
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
