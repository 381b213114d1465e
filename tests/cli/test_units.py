"""Sizes and ages read as ``docker images`` shows them."""

from datetime import UTC, datetime, timedelta

import pytest

from beiran_cli.units import human_age, human_duration, human_size

MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1_240, "1.24kB"),
        (4_261_574, "4.26MB"),
        (77_800_000, "77.8MB"),
        (123_456_789, "123MB"),
        (999_900_000, "1e+03MB"),
        (1_000_000_000, "1GB"),
        (10**24, "1YB"),
        (10**27, "1e+03YB"),
    ],
)
def test_sizes_have_three_digits_and_a_decimal_unit(size_bytes: int, text: str) -> None:
    assert human_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1.9, "1 second"),
        (2, "2 seconds"),
        (59.9, "59 seconds"),
        (MINUTE, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (59.9 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (1.4 * HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
        (3000 * DAY, "8 years"),
    ],
)
def test_durations_are_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T01:00:00+01:00",
        "2026-01-01T00:00:00.123456789Z",
        "2026-01-01T00:00:00",
    ],
)
def test_an_age_is_counted_from_any_rfc_3339_time(timestamp: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=3, seconds=1)
    assert human_age(timestamp, now) == "3 hours ago"


@pytest.mark.parametrize("timestamp", [None, "", "yesterday"])
def test_an_age_that_is_not_known_is_not_made_up(timestamp: str | None) -> None:
    assert human_age(timestamp) == "N/A"
