"""What origins granted, for how long, and how much of it is remembered."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.ids import Digest, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import OCI_MANIFEST, Descriptor, ImageManifest, Index
from beiran.pull.grants import Grants, granted_with

APP = RepositoryName("docker.io", "library/app")
SAME_ELSEWHERE = RepositoryName("quay.io", "library/app")


def digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


def named(number: int) -> Descriptor:
    return Descriptor(media_type=OCI_MANIFEST, size=1, digest=digest_text(digest(number)))


def test_a_grant_is_of_one_repository_and_ends() -> None:
    grants = Grants(ttl_s=10)
    grants.grant(APP, [digest(1)], now=100)
    assert grants.granted(APP, digest(1), now=109.9)
    assert not grants.granted(APP, digest(1), now=110)
    assert not grants.granted(APP, digest(2), now=100)
    assert not grants.granted(SAME_ELSEWHERE, digest(1), now=100)


def test_a_grant_again_lasts_longer_and_takes_no_room() -> None:
    grants = Grants(ttl_s=10, grants_max=2)
    grants.grant(APP, [digest(1), digest(2)], now=0)
    grants.grant(APP, [digest(1)], now=5)
    assert len(grants) == 2
    assert grants.granted(APP, digest(1), now=12)
    grants.grant(APP, [digest(3)], now=5)
    assert not grants.granted(APP, digest(2), now=5)
    assert grants.granted(APP, digest(1), now=5)


def test_grants_that_have_ended_are_forgotten() -> None:
    grants = Grants(ttl_s=10)
    grants.grant(APP, map(digest, range(100)), now=0)
    grants.grant(APP, [digest(200)], now=10)
    assert len(grants) == 1


def test_what_is_denied_revokes_all_of_that_repository() -> None:
    grants = Grants()
    grants.grant(APP, [digest(1), digest(2)], now=0)
    grants.grant(SAME_ELSEWHERE, [digest(1)], now=0)
    grants.revoke(APP)
    assert not grants.granted(APP, digest(1), now=0)
    assert grants.granted(SAME_ELSEWHERE, digest(1), now=0)


def test_with_a_manifest_everything_it_names_is_granted() -> None:
    manifest = ImageManifest(config=named(2), layers=(named(3), named(4)))
    assert granted_with(digest(1), manifest) == [digest(1), digest(2), digest(3), digest(4)]
    assert granted_with(digest(1), Index(manifests=(named(5),))) == [digest(1), digest(5)]


@pytest.mark.parametrize(("ttl_s", "grants_max"), [(0, 1), (-1, 1), (1, 0)])
def test_grants_that_cannot_be_are_refused(ttl_s: float, grants_max: int) -> None:
    with pytest.raises(ValueError, match="grants last"):
        Grants(ttl_s=ttl_s, grants_max=grants_max)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=40))
def test_no_order_of_grants_keeps_too_many_or_any_too_long(
    steps: Sequence[tuple[int, int]],
) -> None:
    grants = Grants(ttl_s=20, grants_max=4)
    last_granted: dict[int, int] = {}
    now = 0
    for number, pause in steps:
        now += pause
        grants.grant(APP, [digest(number)], now=now)
        last_granted[number] = now
        assert len(grants) <= 4
        assert grants.granted(APP, digest(number), now=now)
        for other, at in last_granted.items():
            if grants.granted(APP, digest(other), now=now):
                assert now - at < 20
