"""Asking peers what they have, and suspecting those that did not give it."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from beiran.gossip.membership.member import Address
from beiran.http.messages import Request, Response, Route, json_response
from beiran.ids import NodeId, digest_text
from beiran.oci.manifests import digest_of
from beiran.peers.peer_client import open_peer_client
from beiran.pull.peer_lookup import HAVE_PATH, PeerLookup
from tests.http.serving import serve
from tests.pull.site import (
    TAR,
)


async def test_a_suspect_does_not_count_for_the_blob_that_it_did_not_give() -> None:
    wanted = digest_of(TAR)
    said = {NodeId(b"a" * 16): 7, NodeId(b"b" * 16): 7, NodeId(b"c" * 16): len(TAR)}

    def saying(size: int) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return json_response({"blobs": {digest_text(wanted): size}})

        return answer

    async with AsyncExitStack() as stack:
        ports = {}
        for node, size in said.items():
            route = Route(method="POST", pattern=HAVE_PATH, handler=saying(size))
            ports[node] = (await stack.enter_async_context(serve([route]))).port
        peers = await stack.enter_async_context(open_peer_client())
        lookup = PeerLookup(peers, lambda node: Address("127.0.0.1", ports[node]))
        assert (await lookup.having([wanted], said))[wanted].size_bytes == 7
        wrong = list(said)[:2]
        lookup.suspect(wanted, wrong)
        found = (await lookup.having([wanted], said))[wanted]
        assert (found.size_bytes, found.nodes) == (len(TAR), (NodeId(b"c" * 16),))
        assert (await lookup.having([wanted], wrong)) == {}
