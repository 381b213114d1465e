"""The wall clock as text, for the API and the store."""

from datetime import UTC, datetime


def now_text() -> str:
    """Now, RFC 3339 in UTC with milliseconds: ``2026-11-23T02:15:22.123Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_ago_text(seconds: float) -> str:
    """``now_text`` as it was ``seconds`` ago."""
    then = datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")
