"""Grants of origins: their duration, their number, and the effect of a silent origin."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from beiran.ids import Digest, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import Denied, Unavailable
from beiran.oci.manifests import (
    OCI_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    digest_of,
)
from beiran.pull import authorization
from beiran.pull.authorization import Grants, granted_with
from tests.pull.reading import asked_again, known_and_away, read_blob
from tests.pull.site import (
    CONFIG,
    LAYER,
    MANIFEST,
    NAME,
    PEER,
    Pair,
    open_pair,
)

APP = RepositoryName("docker.io", "library/app")


SAME_ELSEWHERE = RepositoryName("quay.io", "library/app")


SOON_S = 8.0
"""Less than an origin has to answer where no other node has what is asked for."""


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


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """The first has the image in its cache, and the second knows of it."""
    async with open_pair(tmp_path) as (giver, taker):
        for data in (MANIFEST, CONFIG, LAYER):
            await giver.cache.put(digest_of(data), data)
        taker.put_image(PEER, digest_of(CONFIG), "team/app:1", digest_of(MANIFEST))
        yield giver, taker


@pytest.mark.parametrize("for_engine", [True, False])
async def test_a_digest_that_peers_have_waits_no_longer_for_a_silent_origin_than_a_tag(
    pair: Pair, for_engine: bool
) -> None:
    _, taker = pair
    taker.registry.silent = True
    with trio.fail_after(SOON_S):
        answer = await taker.backend.manifest(NAME, digest_of(MANIFEST), for_engine=for_engine)
        assert (answer.data, answer.source) == (MANIFEST, "peers")
        assert await read_blob(taker, digest_of(LAYER)) == LAYER


async def test_a_digest_that_peers_have_is_denied_where_the_origin_denies_it(pair: Pair) -> None:
    _, taker = pair
    taker.registry.denies = True
    with pytest.raises(Denied):
        await taker.backend.manifest(NAME, digest_of(MANIFEST))
    assert [asked.method for asked in taker.asked] == ["HEAD"]


async def test_a_granted_digest_is_taken_from_peers_without_asking_the_origin(
    pair: Pair,
) -> None:
    _, taker = pair
    await taker.backend.manifest(NAME, "1")
    taker.registry.silent = True
    before = len(taker.asked)
    answer = await taker.backend.manifest(NAME, digest_of(MANIFEST))
    assert (answer.data, answer.source) == (MANIFEST, "origin")
    assert await read_blob(taker, digest_of(LAYER)) == LAYER
    assert len(taker.asked) == before


async def test_a_digest_without_a_holder_is_unavailable_while_the_origin_is_down(
    pair: Pair,
) -> None:
    _, taker = pair
    taker.registry.down = True
    unheld = digest_of(b"no node has it")
    with pytest.raises(Unavailable, match=r"docker\.io does not answer"):
        await taker.backend.manifest(NAME, unheld)
    with pytest.raises(Unavailable, match=r"docker\.io does not answer"):
        await taker.backend.blob_size(NAME, unheld)


@pytest.mark.parametrize("tag", ["1", "many"])
@pytest.mark.parametrize("for_engine", [True, False])
async def test_an_image_served_while_its_origin_was_down_is_not_granted_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_engine: bool, tag: str
) -> None:
    monkeypatch.setattr(authorization, "OFFLINE_GRANT_S", 1e-9)
    async with AsyncExitStack() as stack:
        site = await known_and_away(tmp_path, stack)
        assert (await site.backend.manifest(NAME, tag, for_engine=for_engine)).source == "peers"
        site.registry.down, site.registry.denies = False, True
        with pytest.raises(Denied):
            await asked_again(site, digest_of(MANIFEST), until="origin")
