"""Images as the OCI specifications and Docker describe them."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from beiran.ids import Digest, WireDigest

LAYERS_MAX: Final = 512  # Docker stops at 127; headroom for other builders


SizeBytes = Annotated[int, Meta(ge=0, le=2**48)]
"""Of one layer: up to 256 TiB, so that the sum over ``LAYERS_MAX`` fits SQLite's 64 bits."""


class LayerDescription(Struct, frozen=True, array_like=True):
    """A layer by its diff ID, and the bytes of the files in it."""

    digest: WireDigest
    size_bytes: SizeBytes


class ImageDescription(Struct, frozen=True, array_like=True):
    """What an image *is*: immutable and the same wherever it is held.

    Attributes:
      image: SHA-256 of its config.
      created_at: as its config says (RFC 3339), or empty.
      layers: the base first; the empty steps of an image's history have none.
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
    """``NAME@sha256:…``: a manifest or index that an image is known by in a repository."""

    name: str
    digest: WireDigest

    def __str__(self) -> str:
        return f"{self.name}@sha256:{self.digest.hex()}"


class Holding(Struct, frozen=True, array_like=True):
    """That a node holds an image, and under which names. Names are sorted.

    ``tags`` are as ``docker images`` shows them (``busybox:latest``, ``host:5000/a/b:1``); an
    untagged image has none.
    """

    image: WireDigest
    tags: tuple[str, ...] = ()
    digests: tuple[RepoDigest, ...] = ()


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chain ID of each layer, given all diff IDs from the base up.

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
