"""Blobs of made-up content: digests and the true hash of each piece follow from a name."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from beiran.ids import Digest


@dataclass(frozen=True)
class Blob:
    """A blob; its name stands for its content."""

    name: str
    size_bytes: int

    @cached_property
    def digest(self) -> Digest:
        """The digest that belongs to this name."""
        return blob_digest(self.name)


def image(layers: int, size_bytes: int, name: str = "image") -> list[Blob]:
    """Return the blobs of an image with layers of equal size."""
    each = size_bytes // layers
    return [Blob(f"{name}-{number}", each) for number in range(layers)]


def blob_digest(name: str) -> Digest:
    """Return the digest of the blob with this name."""
    return Digest(hashlib.sha256(name.encode()).digest())


def true_hash(digest: Digest, piece: int) -> bytes:
    """Return the hash of a piece that no host spoiled."""
    return hashlib.blake2b(digest + piece.to_bytes(4, "big"), digest_size=32).digest()
