"""Answers to requests with Range, If-Range or If-None-Match."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.errors import ApiError
from beiran.http.messages import HttpError, Request
from beiran.http.ranges import entity_tag, has_current, parse_range, ranged
from beiran.ids import Digest

TAG = '"sha256:' + "00" * 32 + '"'


def asking(method: str = "GET", **headers: str) -> Request:
    values = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return Request(method=method, path="/", listener="tcp", headers=values)


def test_without_a_range_all_bytes_are_sent() -> None:
    assert ranged(asking(), 10, TAG) == (200, 0, 10, [])


def test_a_range_is_sent_with_its_place_in_the_whole() -> None:
    headers = [("Content-Range", "bytes 2-4/10")]
    assert ranged(asking(range="bytes=2-4"), 10, TAG) == (206, 2, 5, headers)


def test_a_head_request_ignores_its_range() -> None:
    assert ranged(asking("HEAD", range="bytes=99-"), 10, TAG) == (200, 0, 10, [])


def test_a_range_of_other_content_than_this_gets_all_bytes() -> None:
    assert ranged(asking(range="bytes=2-4", if_range=TAG), 10, TAG).status == 206
    assert ranged(asking(range="bytes=2-4", if_range='"other"'), 10, TAG).status == 200


def test_a_range_after_the_last_byte_is_refused_with_the_size() -> None:
    with pytest.raises(ApiError) as caught:
        ranged(asking(range="bytes=10-"), 10, TAG)
    assert caught.value.status == 416


@pytest.mark.parametrize(
    ("value", "current"),
    [
        (TAG, True),
        ("W/" + TAG, True),
        (f'"other", {TAG}', True),
        ("*", True),
        (TAG.strip('"'), True),  # as distribution's registry takes it
        ('"other"', False),
        ("", False),
    ],
)
def test_content_that_the_client_has_is_recognised_by_its_tag(value: str, current: bool) -> None:
    assert has_current(asking(if_none_match=value), TAG) is current


def test_the_tag_of_content_is_its_digest_in_quotes() -> None:
    assert entity_tag(Digest(bytes(32))) == TAG
    assert not has_current(asking(), TAG)


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, None),
        ("bytes=0-4", 10, (0, 5)),
        ("bytes=5-", 10, (5, 10)),
        ("bytes=9-9", 10, (9, 10)),
        ("bytes=0-99999999999999999999999999", 10, (0, 10)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=-30", 10, (0, 10)),
        ("bytes= 1-2 ", 10, (1, 3)),
        ("bytes=4-2", 10, None),
        ("bytes=1-2,4-5", 10, None),
        ("items=1-2", 10, None),
        ("bytes=", 10, None),
        ("bytes=-", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=-5", 0, None),
    ],
)
def test_a_range_is_read_by_rfc_9110(
    header: str | None, size: int, expected: tuple[int, int] | None
) -> None:
    assert parse_range(header, size) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-11", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_outside_of_what_there_is_raises_416(header: str, size: int) -> None:
    with pytest.raises(ApiError) as caught:
        parse_range(header, size)
    assert caught.value.status == 416


@given(size=st.integers(0, 1000), text=st.text("bytes=0123456789-, ", max_size=20))
def test_any_range_header_gives_bytes_that_are_there(size: int, text: str) -> None:
    with suppress(HttpError):
        found = parse_range("bytes=" + text, size)
        assert found is None or 0 <= found[0] < found[1] <= size
