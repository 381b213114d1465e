"""What the mirror asks the agent: manifests, blobs and tags of any registry's repositories.

The mirror (``mirror.py``) speaks the distribution specification; a ``Library`` knows what things
mean and where their bytes are. All the mirror needs to tell of a failure is in ``LibraryError``.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final, Literal, Protocol

from msgspec import Struct

from beiran.http.messages import FileSlice, HttpError
from beiran.ids import Digest
from beiran.oci.media_types import ACCEPTS_ANYTHING, Accept

RETRY_AFTER_S: Final = 5
"""When to ask again for what cannot be had at the moment, unless somebody knows better."""


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

Source = Literal["origin", "cache", "engine", "peers"]
"""Who vouches for an answer: the origin just now, or whoever had it while the origin is away."""


class ManifestAnswer(Struct, frozen=True, kw_only=True):
    """A manifest or index.

    Attributes:
      data: its bytes, exactly; None where only its head was asked for and its bytes are not here.
      source: who says that the reference means this.
      warning: a line for the user of the client, such as that this is what the tag meant an hour
        ago; empty when there is nothing to tell.
    """

    digest: Digest
    media_type: str
    size_bytes: int
    data: bytes | None = None
    source: Source = "origin"
    warning: str = ""


class BlobReader(Protocol):
    """A blob that is open: here, or on its way."""

    @property
    def size_bytes(self) -> int:
        """Its length, all of it."""
        ...

    def file(self, start: int, end: int) -> FileSlice | None:
        """These bytes as part of a file, where they are all here and verified; None if not.

        The descriptor is the caller's to close.
        """
        ...

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """These bytes, ``end`` excluded, as they come; may be asked for again from the start.

        Raises: LibraryError when they do not come. Before the first of them an engine is told so
        and goes on elsewhere; after it there is only to break off, and then Docker on containerd's
        store gives the pull up unless the next request for the rest is answered, or refused.
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


class Library(Protocol):
    """What an engine can pull through this agent.

    The mirror cancels a question that is not answered within ``mirror.FIRST_BYTE_S_MAX``: what
    should go on all the same runs elsewhere. Every method raises LibraryError, and nothing else
    that is not a bug.
    """

    async def manifest(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        accept: Accept = ACCEPTS_ANYTHING,
        head: bool = False,
        client: str = "",
    ) -> ManifestAnswer:
        """What ``reference`` means there.

        Args:
          reference: a tag (``str``), or a digest (``bytes``), which is answered with nothing else.
          accept: what the client takes. To heed it is the mirror's work; a library that composes
            a manifest looks here for the forms that the client knows.
          head: only the head is wanted; ``data`` may be None.
          client: its ``User-Agent``, which tells an engine from other programs; may be empty.
        """
        ...

    async def blob_size(self, name: RepositoryName, digest: Digest) -> int:
        """Bytes of a blob, which need not be fetched for it."""
        ...

    def blob(self, name: RepositoryName, digest: Digest) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob: at once when it is here, as soon as its size is known when it must come.

        What it opens holds no nursery and no cancel scope open: it is entered, read and left in
        different scopes of one task. When it is left, nobody reads it any more.
        """
        ...

    async def tags(self, name: RepositoryName, *, n: int, last: str = "") -> TagPage:
        """At most ``n`` tags after ``last``, which need not be a tag that is there."""
        ...


class LibraryError(HttpError):
    """What was asked for is not to be had. ``code`` and ``status`` are what the client is told.

    Source: OCI distribution specification, "Error Codes"; distribution's ``errcode`` for
    UNAVAILABLE.
    """

    STATUS: ClassVar[int]
    CODE: ClassVar[str]

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        headers = []
        if retry_after_s is not None:
            headers.append(("Retry-After", str(max(1, round(retry_after_s)))))
        super().__init__(self.STATUS, self.CODE, message, headers)


class NameUnknown(LibraryError):
    """There is no such repository, as far as anybody knows."""

    STATUS = 404
    CODE = "NAME_UNKNOWN"


class ManifestUnknown(LibraryError):
    """The repository has no such tag, or no manifest with that digest."""

    STATUS = 404
    CODE = "MANIFEST_UNKNOWN"


class BlobUnknown(LibraryError):
    """The repository has no such blob."""

    STATUS = 404
    CODE = "BLOB_UNKNOWN"


class Denied(LibraryError):
    """The origin does not grant it to this host's credentials, or the operator does not allow it.

    Never 401: a client would take that for us asking it to log in.
    """

    STATUS = 403
    CODE = "DENIED"


class OriginLimited(LibraryError):
    """The origin answers 429, and nobody else has it."""

    STATUS = 429
    CODE = "TOOMANYREQUESTS"

    def __init__(self, message: str, *, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class OriginBroken(LibraryError):
    """The origin answers what cannot be used, and nobody else has it."""

    STATUS = 502
    CODE = "UNAVAILABLE"


class Unavailable(LibraryError):
    """It cannot be had now: the origin is away and no peer has it, or the disk is full."""

    STATUS = 503
    CODE = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class Late(Unavailable):
    """No answer could be had in the time that a client waits for one."""
