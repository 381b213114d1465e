"""The ``index.json`` of an OCI layout folder, and what its annotations name.

A full reference (in ``io.containerd.image.name``, or an ``org.opencontainers.image.ref.name`` with
a ``/`` or ``:``) is shown as ``docker images`` would (``docker.io/library/busybox:1`` is
``busybox:1``). A bare tag, as ``skopeo copy … oci:DIR:latest`` leaves it, is shown as it is.

Source: OCI image specification, image-layout.md and annotations.md.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from beiran.engine.content_store import BadContent, Descriptor, MissingContent, read_small_file
from beiran.engine.docker.load import CONTAINERD_NAME, REF_NAME
from beiran.oci.familiar_names import digests_of, familiar_name, repository_of
from beiran.oci.images import RepoDigest

LAYOUT_VERSION: Final = "1.0.0"


class Index(Struct):
    """What lies in the folder."""

    manifests: list[Descriptor]


class _LayoutFile(Struct, rename={"version": "imageLayoutVersion"}):
    version: str


def read_index(folder: Path) -> Index:
    """``index.json`` of a layout. Raises: MissingContent, BadContent when it is no layout."""
    try:
        if not folder.is_dir():
            raise MissingContent(f"{folder}: no such folder")
    except OSError as error:
        raise BadContent(f"{folder}: {error.strerror}") from None
    try:
        layout = msgspec.json.decode(read_small_file(folder / "oci-layout"), type=_LayoutFile)
        if layout.version != LAYOUT_VERSION:
            raise BadContent(f"{folder}: OCI layout {layout.version[:20]!r} is not known")
        return msgspec.json.decode(read_small_file(folder / "index.json"), type=Index)
    except MissingContent as missing:
        raise MissingContent(f"no OCI image layout: there is no {missing}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadContent(f"no OCI image layout in {folder}: {error}") from None


def is_named(descriptor: Descriptor, name: str) -> bool:
    """Whether an entry has this name, with a tag or a digest."""
    tags, digests = names_of(descriptor)
    familiar = familiar_name(name)
    return familiar in tags or familiar in map(str, digests)


def names_of(descriptor: Descriptor) -> tuple[tuple[str, ...], tuple[RepoDigest, ...]]:
    """The tags that annotations give, and the digest by which the image goes in its repository."""
    annotations = descriptor.annotations or {}
    ref_name = annotations.get(REF_NAME, "")
    reference = annotations.get(CONTAINERD_NAME, "") or ref_name
    tag = familiar_name(reference)
    if not tag:
        return (), ()
    if "/" not in reference and ":" not in reference:
        return (tag,), ()
    name = repository_of(tag)
    digests = digests_of([f"{name}@{descriptor.digest}"])
    return (() if "@" in tag else (tag,)), digests
