"""An image as a crowd sees it: blobs of some size, whose pieces have one true hash each."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from beiran.ids import Digest


@dataclass(frozen=True)
class Blob:
    """One blob of ``size_bytes``; its name stands for its content."""

    name: str
    size_bytes: int

    @cached_property
    def digest(self) -> Digest:
        """What its name hashes to."""
        return blob_digest(self.name)


def image(layers: int, size_bytes: int, name: str = "image") -> list[Blob]:
    """An image of equal layers."""
    each = size_bytes // layers
    return [Blob(f"{name}-{number}", each) for number in range(layers)]


def blob_digest(name: str) -> Digest:
    """The digest of the blob with this name."""
    return Digest(hashlib.sha256(name.encode()).digest())


def true_hash(digest: Digest, piece: int) -> bytes:
    """What a piece hashes to that nobody spoiled."""
    return hashlib.blake2b(digest + piece.to_bytes(4, "big"), digest_size=32).digest()
