"""Made-up images: digest, description and holding follow from a name."""

import hashlib

from beiran.ids import Digest
from beiran.oci.images import Holding, ImageDescription, LayerDescription


def digest(name: str) -> Digest:
    """Return the digest that belongs to this name and no other."""
    return Digest(hashlib.sha256(name.encode()).digest())


def description(name: str, layers: int = 3) -> ImageDescription:
    """Return the description of the image ``name``."""
    return ImageDescription(
        digest(name),
        "linux",
        "amd64",
        "2026-01-01T00:00:00Z",
        tuple(LayerDescription(digest(f"{name}-layer-{i}"), 1000 + i) for i in range(layers)),
    )


def holding(name: str, tag: str = "latest") -> Holding:
    """Return a holding of the image ``name`` under one tag."""
    return Holding(digest(name), (f"{name}:{tag}",))
