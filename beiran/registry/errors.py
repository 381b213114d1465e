"""Errors of a registry. Each message is one line and says what to do."""

from beiran.errors import BeiranError


class OriginError(BeiranError):
    """A registry sent nothing that can be used."""


class OriginUnavailable(OriginError):
    """No usable answer: refused, no such host, no route, TLS, too slow, 5xx, broken off.

    Attributes:
      again: whether a second try at once may succeed.
    """

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class OriginDenied(OriginError):
    """The registry answers 401 or 403 to the credentials that this host has for it."""


class OriginMissing(OriginError):
    """The registry answers 404: it has no such repository, manifest or blob."""


class OriginLimited(OriginError):
    """The registry answers 429: its rate limit is reached.

    Attributes:
      retry_after_s: its ``Retry-After`` in seconds; None without one.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OriginBroken(OriginError):
    """The answer is none of a registry: HTML, other bytes than requested, or far too many."""
