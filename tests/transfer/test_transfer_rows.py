"""The rows of ``/transfers``."""

from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing

from beiran.client.trio_client import Client, Follow
from beiran.ids import digest_text
from beiran.oci.manifests import digest_of
from beiran.settings.settings import Limit
from beiran.transfer.blob_download import BlobRequest
from tests.cache.contents import content
from tests.http.serving import serve
from tests.pull.site import (
    NAME,
    PEER,
    open_pair,
)


async def test_a_transfer_is_followed_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    data = content(1, 2 * 2**20)
    digest = digest_of(data)
    slowly = {"download_limit": Limit(1, None)}
    async with (
        open_pair(tmp_path, taker=slowly) as (giver, taker),
        serve(taker.routes) as asked,
        Client(url=f"http://127.0.0.1:{asked.port}") as client,
    ):
        await giver.cache.put(digest, data)
        assert await giver.uploads.having([digest]) == {digest: len(data)}
        follow: Follow[dict[str, Any]] = client.follow(
            "/transfers?follow=true", msgspec.json.decode
        )
        wanted = BlobRequest(digest=digest, size_bytes=len(data), name=NAME, sources=(PEER,))
        with trio.fail_after(30):
            async with follow as changes:
                assert await anext(changes) == {"change": "listed"}
                async with taker.downloads.fetching(wanted) as download:
                    assert download is not None
                    begun = await anext(changes)
                    taker.driver._peer_bytes.bytes_per_s = None
                    await download.whole()
                sent = [begun]
                while sent[-1]["change"] != "removed":
                    sent.append(await anext(changes))
    assert begun["change"] == "added"
    row = begun["transfer"]
    assert (row["direction"], row["digest"]) == ("in", digest_text(digest))
    assert row["bytes_total"] == len(data)
    assert row["reference"] == str(NAME)
    sizes = [change["transfer"]["bytes_done"] for change in sent]
    assert sizes == sorted(sizes)
    assert {change["transfer"]["id"] for change in sent} == {row["id"]}
