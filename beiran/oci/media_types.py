"""Media types that an ``Accept`` header takes. Source: RFC 9110 §12.4.2, §12.5.1."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

ACCEPT_RANGES_MAX: Final = 128
"""Of one request; what comes after them is not looked at."""

_ANYTHING: Final = "*/*"
_QUALITY: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


class Accept(Struct, frozen=True):
    """Which media types a client takes, and how gladly.

    Attributes:
      ranges: ``type/subtype``, ``type/*`` or ``*/*``, in lower case and in the client's order,
        each with its quality, 0 to 1; 0 refuses it. None at all stands for ``*/*``.
    """

    ranges: Mapping[str, float] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether the client named no type at all."""
        return not self.ranges

    def quality(self, media_type: str) -> float:
        """How gladly ``media_type`` is taken, 0 to 1. The narrowest range that fits decides."""
        if self.anything:
            return 1.0
        name = media_type.lower()
        for narrower in (name, name.partition("/")[0] + "/*", _ANYTHING):
            if narrower in self.ranges:
                return self.ranges[narrower]
        return 0.0

    def takes(self, media_type: str) -> bool:
        """Whether an answer may have this type."""
        return self.quality(media_type) > 0

    def names(self, media_type: str) -> bool:
        """Whether this very type is among what the client takes: it knows what it is asking for."""
        return self.ranges.get(media_type.lower(), 0.0) > 0

    def best(self, media_types: Iterable[str]) -> str | None:
        """Which of ``media_types`` is taken most gladly, the first of equals; None for none."""
        best, best_quality = None, 0.0
        for media_type in media_types:
            quality = self.quality(media_type)
            if quality > best_quality:
                best, best_quality = media_type, quality
        return best

    def header(self) -> str:
        """The value of a header that says the same."""
        parts = []
        for name, quality in self.ranges.items():
            parts.append(name if quality == 1 else f"{name};q={quality:.3g}")
        return ", ".join(parts) or _ANYTHING


ACCEPTS_ANYTHING: Final = Accept()


def parse_accept(values: Iterable[str]) -> Accept:
    """Read all ``Accept`` lines of a request together. What cannot be read is left out.

    A range with a quality that is no number counts as refused; of one that comes twice the
    highest quality counts. Parameters other than ``q`` are not looked at.
    """
    ranges: dict[str, float] = {}
    for part in ",".join(values).split(",", ACCEPT_RANGES_MAX)[:ACCEPT_RANGES_MAX]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        kind, slash, subtype = name.partition("/")
        if not (kind and slash and subtype) or " " in name:
            continue
        ranges[name] = max(ranges.get(name, 0.0), _quality_of(parameters))
    return Accept(ranges)


def _quality_of(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if name.strip() == "q" and equals:
            text = value.strip()
            return float(text) if _QUALITY.fullmatch(text) else 0.0
    return 1.0
