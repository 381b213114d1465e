"""Identities: a node is a UUID, content is a SHA-256. Both are raw bytes inside, text outside."""

import re
import uuid
from typing import Annotated, Final, NewType

from msgspec import Meta

NODE_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32
NODE_URI_SCHEME: Final = "beiran+uuid://"

NodeId = NewType("NodeId", bytes)
"""A node's UUID, 16 bytes."""

Digest = NewType("Digest", bytes)
"""A SHA-256, 32 bytes: of an image its config's, of a layer its diff ID (OCI image spec)."""

WireNodeId = Annotated[NodeId, Meta(min_length=NODE_ID_BYTES, max_length=NODE_ID_BYTES)]
WireDigest = Annotated[Digest, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]

_DIGEST_TEXT: Final = re.compile(r"sha256:[0-9a-f]{64}")


def new_node_id() -> NodeId:
    """A random node ID (UUID version 4)."""
    return NodeId(uuid.uuid4().bytes)


def parse_node_id(text: str) -> NodeId:
    """Read a UUID, with or without ``beiran+uuid://``.

    Raises: ValueError if it is not a UUID in its canonical form.
    """
    bare = text.removeprefix(NODE_URI_SCHEME)
    parsed = uuid.UUID(bare)
    if str(parsed) != bare.lower():
        raise ValueError(f"not a UUID in canonical form: {text!r}")
    return NodeId(parsed.bytes)


def node_id_text(node: NodeId) -> str:
    """``node`` as a UUID in lower case with hyphens."""
    return str(uuid.UUID(bytes=node))


def parse_digest(text: str) -> Digest:
    """Read ``sha256:`` and 64 hexadecimal digits in lower case.

    Raises: ValueError for anything else (other algorithms included).
    Source: OCI image specification, descriptor.md, "Digests".
    """
    if not _DIGEST_TEXT.fullmatch(text):
        raise ValueError(f"not a SHA-256 digest (sha256:<64 hex digits>): {text!r}")
    return Digest(bytes.fromhex(text[7:]))


def digest_text(digest: Digest) -> str:
    """``digest`` as ``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + digest.hex()
