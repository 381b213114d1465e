"""``Accept`` headers as they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.oci.manifests import DOCKER_MANIFEST, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST
from beiran.oci.media_types import ACCEPT_RANGES_MAX, parse_accept


def test_no_header_and_one_that_says_nothing_take_anything() -> None:
    for values in ([], [""], [" , "], ["nonsense"]):
        accept = parse_accept(values)
        assert accept.anything
        assert accept.takes(OCI_INDEX)
        assert not accept.names(OCI_INDEX)
        assert accept.header() == "*/*"


def test_all_lines_count_together() -> None:
    accept = parse_accept([OCI_MANIFEST, f"{DOCKER_MANIFEST}, application/json;q=0.5"])
    assert accept.takes(OCI_MANIFEST)
    assert accept.takes(DOCKER_MANIFEST)
    assert accept.quality("application/json") == 0.5
    assert not accept.takes(OCI_INDEX)
    assert accept.names(DOCKER_MANIFEST)


def test_the_narrowest_range_decides() -> None:
    accept = parse_accept([f"*/*;q=0.1, application/*;q=0.5, {OCI_INDEX};q=0"])
    assert not accept.takes(OCI_INDEX)
    assert accept.quality(OCI_MANIFEST) == 0.5
    assert accept.quality("text/plain") == 0.1


def test_the_best_is_the_most_wanted_and_the_first_of_equals() -> None:
    assert parse_accept([]).best(MANIFEST_TYPES) == MANIFEST_TYPES[0]
    accept = parse_accept([f"{OCI_INDEX};q=0.3, {DOCKER_MANIFEST};q=0.8, {OCI_MANIFEST};q=0.8"])
    assert accept.best(MANIFEST_TYPES) == OCI_MANIFEST
    assert parse_accept(["text/html"]).best(MANIFEST_TYPES) is None


@pytest.mark.parametrize("quality", ["2", "-1", "x", "", "1.5", "nan", "1e0", "0.1234"])
def test_a_quality_that_is_none_refuses(quality: str) -> None:
    assert not parse_accept([f"text/plain;q={quality}"]).takes("text/plain")


def test_case_spaces_and_parameters_do_not_matter() -> None:
    accept = parse_accept(["  Text/Plain ; charset=utf-8 ; Q = 0.7 ", "text/plain;q=0.2"])
    assert accept.quality("TEXT/PLAIN") == 0.7


def test_what_comes_after_the_limit_is_not_looked_at() -> None:
    many = ",".join(f"a/{number}" for number in range(ACCEPT_RANGES_MAX + 1))
    assert parse_accept([many]).takes(f"a/{ACCEPT_RANGES_MAX - 1}")
    assert not parse_accept([many]).takes(f"a/{ACCEPT_RANGES_MAX}")


@given(st.lists(st.text()))
def test_any_text_is_read(values: list[str]) -> None:
    accept = parse_accept(values)
    assert all(0 <= quality <= 1 for quality in accept.ranges.values())
    assert accept.best(MANIFEST_TYPES) in (None, *MANIFEST_TYPES)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,3}/[a-z]{1,3}", fullmatch=True),
        st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
        max_size=5,
    )
)
def test_a_header_survives_a_round_trip(ranges: dict[str, float]) -> None:
    text = ", ".join(f"{name};q={quality:.3f}" for name, quality in ranges.items())
    accept = parse_accept([text])
    assert dict(accept.ranges) == ranges
    assert parse_accept([accept.header()]).ranges == (accept.ranges or {"*/*": 1.0})
