"""Why the mirror cannot answer, as its clients learn it: a status and a registry error code.

The pull and transfer parts raise these; ``routes`` answers with them.
Source: OCI distribution specification, "Error Codes"; distribution's ``errcode`` for UNAVAILABLE.
"""

from typing import ClassVar, Final

from beiran.http.messages import HttpError
from beiran.registry import errors as origin

RETRY_AFTER_S: Final = 5
"""When a client may ask again, where the origin did not say when. Docker's retries begin at 5 s."""


class MirrorError(HttpError):
    """The mirror cannot answer a request. Subclasses give the status and the registry's code."""

    STATUS: ClassVar[int]
    CODE: ClassVar[str]

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        headers = []
        if retry_after_s is not None:
            headers.append(("Retry-After", str(max(1, round(retry_after_s)))))
        super().__init__(self.STATUS, self.CODE, message, headers)


class NameUnknown(MirrorError):
    """Neither the origin nor a node has the repository."""

    STATUS = 404
    CODE = "NAME_UNKNOWN"


class ManifestUnknown(MirrorError):
    """The repository has no such tag, or no manifest with that digest."""

    STATUS = 404
    CODE = "MANIFEST_UNKNOWN"


class BlobUnknown(MirrorError):
    """The repository has no such blob."""

    STATUS = 404
    CODE = "BLOB_UNKNOWN"


class Denied(MirrorError):
    """The origin does not grant it to this host's credentials, or the operator does not allow it.

    Never 401: a client would take that for a request to log in here.
    """

    STATUS = 403
    CODE = "DENIED"


class OriginLimited(MirrorError):
    """The origin answers 429, and no node has it."""

    STATUS = 429
    CODE = "TOOMANYREQUESTS"

    def __init__(self, message: str, *, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class OriginBroken(MirrorError):
    """The origin answers what cannot be used, and no node has it."""

    STATUS = 502
    CODE = "UNAVAILABLE"


class Unavailable(MirrorError):
    """No source answers now: the origin is silent and no node has it, or the disk is full."""

    STATUS = 503
    CODE = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class Late(Unavailable):
    """No answer came within the time that a client waits for one."""


Unknown = type[ManifestUnknown] | type[BlobUnknown] | type[NameUnknown]


def mirror_error(error: origin.OriginError, unknown: Unknown) -> MirrorError:
    """An origin's failure as the mirror's clients learn it.

    Args:
      unknown: the error for a 404, which names what was asked for.
    """
    text = str(error)
    match error:
        case origin.OriginMissing():
            return unknown(text)
        case origin.OriginDenied():
            return Denied(text)
        case origin.OriginLimited():
            return OriginLimited(text)
        case origin.OriginBroken():
            return OriginBroken(text)
        case _:
            return Unavailable(text)
