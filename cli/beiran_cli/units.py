"""Sizes and ages in the words of ``docker images``, so that the two can be read side by side.

Source: docker/go-units, ``HumanSizeWithPrecision`` (with 3, as the docker CLI does) and
``HumanDuration``.
"""

from datetime import UTC, datetime
from typing import Final

_SIZE_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_H: Final = 24
_WEEK_H: Final = 24 * 7
_MONTH_H: Final = 24 * 30
_YEAR_H: Final = 24 * 365
UNKNOWN: Final = "N/A"


def human_size(size_bytes: int) -> str:
    """Three digits and a decimal unit: ``4.26MB``."""
    size = float(size_bytes)
    unit = 0
    while size >= 1000 and unit < len(_SIZE_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.3g}{_SIZE_UNITS[unit]}"  # 999.9 is 1e+03, there as here


def human_duration(seconds: float) -> str:
    """The largest unit that fits, in words: ``About an hour``, ``3 weeks``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < _MINUTE_S:
        return f"{whole} seconds"
    minutes = whole // _MINUTE_S
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / _HOUR_S + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 2 * _DAY_H:
        return f"{hours} hours"
    if hours < 2 * _WEEK_H:
        return f"{hours // _DAY_H} days"
    if hours < 2 * _MONTH_H:
        return f"{hours // _WEEK_H} weeks"
    if hours < 2 * _YEAR_H:
        return f"{hours // _MONTH_H} months"
    return f"{int(seconds / _HOUR_S) // _YEAR_H} years"


def clock_time(moment: datetime) -> str:
    """The local time of day: ``17:04:05.678``."""
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]


def human_age(timestamp: str | None, now: datetime | None = None) -> str:
    """The age of an RFC 3339 time: ``3 weeks ago``; ``N/A`` for none or an unreadable one."""
    try:
        moment = datetime.fromisoformat(timestamp or "")
    except ValueError:
        return UNKNOWN
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return human_duration(((now or datetime.now(UTC)) - moment).total_seconds()) + " ago"
