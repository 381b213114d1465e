"""The routes for other agents answer members only."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from beiran.http.connection import HttpConnection
from beiran.ids import digest_text
from beiran.oci.manifests import digest_of
from tests.http.serving import serve
from tests.pull.site import (
    CONFIG,
    LAYER,
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


LAYER_DIGEST = digest_text(digest_of(LAYER))


async def test_a_host_that_is_no_member_is_denied_and_given_nothing(site: Site) -> None:
    await site.backend.manifest(NAME, "1")
    await site.cache.put(digest_of(LAYER), LAYER)
    questions = [
        ("GET", f"/blobs/{LAYER_DIGEST}"),
        ("HEAD", f"/blobs/{LAYER_DIGEST}"),
        ("POST", "/blobs/have"),
        ("GET", f"/manifests/{digest_text(digest_of(MANIFEST))}"),
        ("GET", f"/tags?reference={NAME}:1"),
        ("GET", f"/images/{digest_text(digest_of(CONFIG))}/manifest"),
        ("POST", f"/prefetch/here?reference={NAME}:1"),
    ]
    body = json.dumps({"digests": [LAYER_DIGEST]}).encode()
    async with serve(site.routes) as served:
        for is_member in (False, True, False):
            site.put_member(
                PEER,
                "127.0.0.1" if is_member else "10.9.8.7",
                incarnation=served.counters.http_requests + 1,
            )
            for method, path in questions:
                stream = await trio.open_tcp_stream("127.0.0.1", served.port)
                connection = HttpConnection(stream, "x")
                answer = await connection.ask(method, path, body=body if "have" in path else b"")
                answered = await connection.read(bytes_max=2**20) if method != "HEAD" else b""
                connection.close()
                if not is_member or "prefetch" in path:  # which its operator does not allow
                    assert answer.status == 403, path
                    assert method == "HEAD" or b"DENIED" in answered
                    assert LAYER not in answered
                else:
                    assert answer.status == (404 if "images" in path else 200), path
