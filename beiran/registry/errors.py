"""What can go wrong with an origin. Each text is one line for a person and says what to do."""

from beiran.errors import BeiranError


class OriginError(BeiranError):
    """An origin gave nothing that can be used."""


class OriginUnavailable(OriginError):
    """It does not answer: refused, no such host, no route, TLS, too slow, 5xx, broken off.

    Attributes:
      again: whether the same may well go right when it is asked again at once.
    """

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class OriginDenied(OriginError):
    """It answers 401 or 403 to whatever credentials this host has for it."""


class OriginMissing(OriginError):
    """It answers 404: there is no such repository, manifest or blob."""


class OriginLimited(OriginError):
    """It answers 429: too much was asked of it.

    Attributes:
      retry_after_s: after how many seconds it wants to be asked again; None if it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OriginBroken(OriginError):
    """It answers what no registry may: HTML, other bytes than were asked for, far too many."""
