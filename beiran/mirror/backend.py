"""What the mirror asks the agent for: manifests, blobs and tags of any registry's repositories.

``routes`` speaks the distribution specification; a ``Backend`` resolves names and locates bytes.
The agent's is ``pull/mirror_backend.py``.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from msgspec import Struct

from beiran.http.messages import FileSlice
from beiran.ids import Digest
from beiran.oci.media_types import ACCEPTS_ANYTHING, Accept


class RepositoryName(Struct, frozen=True):
    """A repository of a registry: ``docker.io`` and ``library/busybox``.

    Attributes:
      registry: host, with its port if it has one; ``docker.io`` for Docker Hub.
      repository: its whole path there.
    """

    registry: str
    repository: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}"


Reference = str | Digest
"""A tag, or the digest of a manifest or index."""

Source = Literal["origin", "peers"]
"""Who stated that the reference names this digest: the origin, or other nodes in its place."""


class ManifestAnswer(Struct, frozen=True, kw_only=True):
    """A manifest or index.

    Attributes:
      data: its bytes, exactly.
      source: who stated that the reference names it.
      warning: a line for the user, such as that the tag named this an hour ago; may be empty.
    """

    digest: Digest
    media_type: str
    data: bytes
    source: Source = "origin"
    warning: str = ""


class OpenBlob(Protocol):
    """A blob that is open: on this host, or on its way."""

    @property
    def size_bytes(self) -> int:
        """Length of the whole blob."""
        ...

    def file(self, start: int, end: int) -> FileSlice | None:
        """These bytes as part of a file, whose gate lets them out as they come; None without one.

        The caller closes the descriptor.
        """
        ...

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """These bytes, ``end`` excluded, as they come. May be called again from the start.

        Raises: MirrorError when they do not come. Before the first chunk the mirror answers with
        it, and the engine goes on elsewhere. After that the mirror can only break the answer off,
        and Docker on containerd's store gives the pull up unless its next request for the rest is
        answered, or refused.
        """
        ...


class TagPage(Struct, frozen=True, kw_only=True):
    """Some of a repository's tags.

    Attributes:
      tags: in the order of their bytes.
      more: whether there are others after the last of them.
      source, warning: as of a ``ManifestAnswer``.
    """

    tags: Sequence[str]
    more: bool = False
    source: Source = "origin"
    warning: str = ""


class Backend(Protocol):
    """What an engine can pull through this agent.

    The mirror cancels a call after ``routes.FIRST_BYTE_S_MAX``: work that must go on all the same
    runs in a task of its own. Every method raises MirrorError only; anything else is a bug.
    """

    async def manifest(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        accept: Accept = ACCEPTS_ANYTHING,
        for_engine: bool = False,
    ) -> ManifestAnswer:
        """The manifest or index that ``reference`` names.

        Args:
          reference: a tag, which may be answered with any manifest of that image; or a digest,
            which is answered with exactly that manifest.
          accept: the media types that the client takes. The mirror enforces it; a backend uses it
            to choose among forms.
          for_engine: the client is this host's engine, so layers it lacks may be loaded meanwhile.
        """
        ...

    async def blob_size(self, name: RepositoryName, digest: Digest) -> int:
        """Bytes of a blob. Fetches nothing of it."""
        ...

    def blob(self, name: RepositoryName, digest: Digest) -> AbstractAsyncContextManager[OpenBlob]:
        """Open a blob: at once when it is here, as soon as its size is known when it must come.

        What this opens holds no nursery and no cancel scope: it is entered, read and left in
        different scopes of one task. Leaving it says that no one reads it any more.
        """
        ...

    async def tags(self, name: RepositoryName, *, n: int, last: str = "") -> TagPage:
        """At most ``n`` tags after ``last``, which need not exist."""
        ...
