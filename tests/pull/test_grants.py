"""What origins granted, for how long, and how much of it is remembered."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.ids import Digest, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import OCI_MANIFEST, Descriptor, ImageManifest, Index
from beiran.pull.authorization import Grants, granted_with

APP = RepositoryName("docker.io", "library/app")
SAME_ELSEWHERE = RepositoryName("quay.io", "library/app")


def digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


def named(number: int) -> Descriptor:
    return Descriptor(media_type=OCI_MANIFEST, size=1, digest=digest_text(digest(number)))


class Clock:
    """Seconds that the test sets."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_grant_is_of_one_repository_and_ends(clock: Clock) -> None:
    grants = Grants(ttl_s=10, clock=clock)
    grants.grant(APP, [digest(1)])
    assert not grants.granted(APP, digest(2))
    assert not grants.granted(SAME_ELSEWHERE, digest(1))
    clock.now = 9.9
    assert grants.granted(APP, digest(1))
    clock.now = 10
    assert not grants.granted(APP, digest(1))


def test_a_grant_again_lasts_longer_and_takes_no_room(clock: Clock) -> None:
    grants = Grants(ttl_s=10, grants_max=2, clock=clock)
    grants.grant(APP, [digest(1), digest(2)])
    clock.now = 5
    grants.grant(APP, [digest(1)])
    assert len(grants) == 2
    clock.now = 12
    assert grants.granted(APP, digest(1))


def test_the_oldest_grant_makes_room(clock: Clock) -> None:
    grants = Grants(ttl_s=10, grants_max=2, clock=clock)
    grants.grant(APP, [digest(1), digest(2)])
    clock.now = 5
    grants.grant(APP, [digest(1)])
    grants.grant(APP, [digest(3)])
    assert not grants.granted(APP, digest(2))
    assert grants.granted(APP, digest(1))


def test_grants_that_have_ended_are_forgotten(clock: Clock) -> None:
    grants = Grants(ttl_s=10, clock=clock)
    grants.grant(APP, map(digest, range(100)))
    clock.now = 10
    grants.grant(APP, [digest(200)])
    assert len(grants) == 1


def test_a_denial_revokes_all_grants_of_that_repository(clock: Clock) -> None:
    grants = Grants(clock=clock)
    grants.grant(APP, [digest(1), digest(2)])
    grants.grant(SAME_ELSEWHERE, [digest(1)])
    grants.revoke(APP)
    assert not grants.granted(APP, digest(1))
    assert grants.granted(SAME_ELSEWHERE, digest(1))


def test_with_a_manifest_everything_it_names_is_granted() -> None:
    manifest = ImageManifest(config=named(2), layers=(named(3), named(4)))
    assert granted_with(digest(1), manifest) == [digest(1), digest(2), digest(3), digest(4)]
    assert granted_with(digest(1), Index(manifests=(named(5),))) == [digest(1), digest(5)]


@pytest.mark.parametrize(("ttl_s", "grants_max"), [(0, 1), (-1, 1), (1, 0)])
def test_grants_that_cannot_be_are_refused(ttl_s: float, grants_max: int) -> None:
    with pytest.raises(ValueError, match="grants need"):
        Grants(ttl_s=ttl_s, grants_max=grants_max)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=40))
def test_no_order_of_grants_keeps_too_many_or_any_too_long(
    steps: Sequence[tuple[int, int]],
) -> None:
    clock = Clock()
    grants = Grants(ttl_s=20, grants_max=4, clock=clock)
    last_granted: dict[int, float] = {}
    for number, pause in steps:
        clock.now += pause
        grants.grant(APP, [digest(number)])
        last_granted[number] = clock.now
        assert len(grants) <= 4
        assert grants.granted(APP, digest(number))
        for other, at in last_granted.items():
            if grants.granted(APP, digest(other)):
                assert clock.now - at < 20
