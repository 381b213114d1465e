"""Images, their layers and their holdings, as the OCI specifications and Docker describe them.

The agent gossips these types, stores them and serves them over its API.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from beiran.ids import Digest, WireDigest

LAYERS_MAX: Final = 512  # Docker's limit is 127; other builders may have a higher one


SizeBytes = Annotated[int, Meta(ge=0, le=2**48)]
"""Bytes of one layer, at most 256 TiB: the sum over ``LAYERS_MAX`` fits SQLite's 64 bits."""


class LayerDescription(Struct, frozen=True, array_like=True):
    """A layer: its diff ID, and the total size of its files."""

    digest: WireDigest
    size_bytes: SizeBytes


class ImageDescription(Struct, frozen=True, array_like=True):
    """The immutable properties of an image, equal on all nodes.

    Attributes:
      image: SHA-256 of the image's config.
      created_at: time in the config (RFC 3339), or empty.
      layers: from the base up. A build step that changes no file has no layer.
    """

    image: WireDigest
    os: str
    architecture: str
    created_at: str
    layers: Annotated[tuple[LayerDescription, ...], Meta(max_length=LAYERS_MAX)]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files in all its layers, as ``docker images`` shows them."""
        return sum(layer.size_bytes for layer in self.layers)


class RepoDigest(Struct, frozen=True, array_like=True, order=True):
    """``NAME@sha256:…``: the digest of an image's manifest or index in a repository."""

    name: str
    digest: WireDigest

    def __str__(self) -> str:
        return f"{self.name}@sha256:{self.digest.hex()}"


class Holding(Struct, frozen=True, array_like=True):
    """An image that a node holds, and its names there, sorted.

    ``tags`` have the form that ``docker images`` shows: ``busybox:latest``, ``host:5000/a/b:1``. An
    untagged image has none.
    """

    image: WireDigest
    tags: tuple[str, ...] = ()
    digests: tuple[RepoDigest, ...] = ()


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """Compute the chain ID of each layer from all diff IDs, from the base up.

    Source: OCI image specification, config.md, "Layer ChainID".
    """
    chains: list[Digest] = []
    for diff_id in diff_ids:
        if not chains:
            chains.append(diff_id)
            continue
        text = f"sha256:{chains[-1].hex()} sha256:{diff_id.hex()}"
        chains.append(Digest(hashlib.sha256(text.encode()).digest()))
    return chains
