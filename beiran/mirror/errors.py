"""What an origin's failure is to a client of the mirror."""

from beiran.mirror.backend import (
    BlobUnknown,
    Denied,
    LibraryError,
    ManifestUnknown,
    NameUnknown,
    OriginBroken,
    OriginLimited,
    Unavailable,
)
from beiran.registry import errors as origin

Unknown = type[ManifestUnknown] | type[BlobUnknown] | type[NameUnknown]


def as_library_error(error: origin.OriginError, unknown: Unknown) -> LibraryError:
    """``error`` as the mirror's clients are told it; ``unknown`` says what a 404 is about."""
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
