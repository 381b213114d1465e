"""Parses ``Accept`` headers, and chooses a media type by them. The mirror calls it.

Source: RFC 9110 §12.4.2, §12.5.1.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

ACCEPT_RANGES_MAX: Final = 128
"""Media ranges read of one request; the rest is ignored. It bounds the work for a hostile header.
Docker sends about ten; chosen, not measured."""

_ANYTHING: Final = "*/*"
_QUALITY: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


class Accept(Struct, frozen=True):
    """The media types that a client accepts, with their quality values.

    Attributes:
      ranges: ``type/subtype``, ``type/*`` or ``*/*`` in lower case and in the client's order, each
        with its quality, 0 to 1. Quality 0 rejects a range. An empty mapping accepts ``*/*``.
    """

    ranges: Mapping[str, float] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether the client sent no media range."""
        return not self.ranges

    def quality(self, media_type: str) -> float:
        """The quality of ``media_type``, 0 to 1. The most specific range that matches decides."""
        if self.anything:
            return 1.0
        name = media_type.lower()
        for narrower in (name, name.partition("/")[0] + "/*", _ANYTHING):
            if narrower in self.ranges:
                return self.ranges[narrower]
        return 0.0

    def takes(self, media_type: str) -> bool:
        """Whether the client accepts an answer of this type."""
        return self.quality(media_type) > 0

    def names(self, media_type: str) -> bool:
        """Whether the client accepts this type by its name, not only by a wildcard."""
        return self.ranges.get(media_type.lower(), 0.0) > 0

    def best(self, media_types: Iterable[str]) -> str | None:
        """The type with the highest quality, the first of equals; None if none is accepted."""
        best, best_quality = None, 0.0
        for media_type in media_types:
            quality = self.quality(media_type)
            if quality > best_quality:
                best, best_quality = media_type, quality
        return best

    def header(self) -> str:
        """Format the value of an ``Accept`` header."""
        parts = []
        for name, quality in self.ranges.items():
            parts.append(name if quality == 1 else f"{name};q={quality:.3g}")
        return ", ".join(parts) or _ANYTHING


ACCEPTS_ANYTHING: Final = Accept()


def parse_accept(values: Iterable[str]) -> Accept:
    """Parse all ``Accept`` lines of a request together. Skips invalid ranges.

    A range with an invalid quality has quality 0. A range that occurs twice has the higher quality.
    Parameters other than ``q`` are ignored.
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
