"""Resolution of tags while their origin answers, and while it does not."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from beiran.api.models import TagMeaning
from beiran.http.messages import Request, Response, Route, json_response
from beiran.ids import digest_text
from beiran.mirror.errors import ManifestUnknown, Unavailable
from beiran.oci.manifests import DOCKER_INDEX, digest_of
from tests.http.serving import serve
from tests.pull.site import (
    INDEX,
    MANIFEST,
    NAME,
    PEER,
    Site,
    open_site,
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as site:
        yield site


async def test_a_peer_with_a_wrong_clock_does_not_decide_what_a_tag_names(site: Site) -> None:
    await site.backend.manifest(NAME, "1")  # remembered with our own clock
    answered = TagMeaning(
        reference=f"{NAME}:1",
        digest=digest_text(digest_of(INDEX)),
        media_type=DOCKER_INDEX,
        size_bytes=len(INDEX),
        resolved_at="",
    )

    async def answer(request: Request) -> Response:
        return json_response(answered)

    async with serve([Route(method="GET", pattern="/tags", handler=answer)]) as served:
        site.put_member(PEER, "127.0.0.1", served.port)
        site.registry.down = True
        for resolved_at in ("2999-01-01T00:00:00.000Z", "z\nforged", "2001-01-01T00:00:00.000Z"):
            answered = msgspec.structs.replace(answered, resolved_at=resolved_at)
            assert (await site.backend.manifest(NAME, "1")).data == MANIFEST


async def test_an_unknown_tag_is_said_in_the_words_of_docker_pull(site: Site) -> None:
    with pytest.raises(ManifestUnknown, match=f"manifest for {NAME}:none not found"):
        await site.backend.manifest(NAME, "none")


async def test_an_unknown_digest_is_said_in_the_words_of_docker_pull(site: Site) -> None:
    unknown = digest_of(b"no manifest")
    expected = f"manifest for {NAME}@{digest_text(unknown)} not found: manifest unknown"
    with pytest.raises(ManifestUnknown, match=expected):
        await site.backend.manifest(NAME, unknown)


async def test_a_tag_that_no_node_remembers_is_unavailable_while_the_origin_is_down(
    site: Site,
) -> None:
    site.registry.down = True
    with pytest.raises(Unavailable, match="no other node has this tag"):
        await site.backend.manifest(NAME, "1")
