"""Who a pull asks, and what becomes of it when origins are silent and peers say what is not so."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from beiran.engine import interface as contract
from beiran.engine.diff_id_manifest import diff_id_manifest
from beiran.engine.no_engine import NoEngine
from beiran.errors import NotFound
from beiran.gossip.membership.member import Address
from beiran.http.messages import Request, Response, Route, json_response
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.errors import Denied, MirrorError, Unavailable
from beiran.oci.manifests import digest_of
from beiran.peers.peer_client import open_peer_client
from beiran.pull import delivery
from beiran.pull.peer_lookup import HAVE_PATH, PeerLookup
from beiran.transfer.blob_download import BlobRequest
from tests.cache.contents import content
from tests.http.serving import serve
from tests.pull.site import (
    CONFIG,
    LAYER,
    MANIFEST,
    NAME,
    OWN,
    PEER,
    TAR,
    Site,
    TakingEngine,
    open_pair,
)

SOON_S = 8.0
"""Less than an origin is given to answer where nobody else has what is asked for."""

Pair = tuple[Site, Site]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """The first has the image in its cache, and the second knows of it."""
    async with open_pair(tmp_path) as (giver, taker):
        for data in (MANIFEST, CONFIG, LAYER):
            await giver.cache.put(digest_of(data), data)
        taker.put_image(PEER, digest_of(CONFIG), "team/app:1", digest_of(MANIFEST))
        yield giver, taker


async def read_blob(site: Site, digest: Digest) -> bytes:
    """All of a blob, as the mirror reads it."""
    async with site.backend.blob(NAME, digest) as reader:
        return b"".join([chunk async for chunk in reader.chunks(0, reader.size_bytes)])


# --- origins -------------------------------------------------------------------------------------


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


async def test_a_digest_that_peers_have_is_not_given_where_the_origin_says_no(pair: Pair) -> None:
    _, taker = pair
    taker.registry.denies = True
    with pytest.raises(Denied):
        await taker.backend.manifest(NAME, digest_of(MANIFEST))
    assert [asked.method for asked in taker.asked] == ["HEAD"]


async def test_what_the_origin_has_granted_is_taken_from_peers_without_asking_it(
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


async def test_a_digest_that_nobody_has_is_not_unknown_while_the_origin_is_away(
    pair: Pair,
) -> None:
    _, taker = pair
    taker.registry.down = True
    nobody = digest_of(b"nobody has it")
    with pytest.raises(Unavailable, match=r"docker\.io does not answer"):
        await taker.backend.manifest(NAME, nobody)
    with pytest.raises(Unavailable, match=r"docker\.io does not answer"):
        await taker.backend.blob_size(NAME, nobody)


# --- peers ---------------------------------------------------------------------------------------


class UnpackedEngine(NoEngine):
    """Has an image's config and the tar of its layer, and says that this has ``tar_bytes``.

    Attributes:
      in_manifest: what the manifest that it makes says of that.
    """

    def __init__(self, tar_bytes: int) -> None:
        self.in_manifest = tar_bytes
        self.blobs = {digest_of(CONFIG): CONFIG, digest_of(TAR): TAR}
        self.sizes = {digest_of(CONFIG): len(CONFIG), digest_of(TAR): tar_bytes}

    async def image_manifest(self, image: Digest) -> contract.Manifest | None:
        return diff_id_manifest(image, len(CONFIG), [(digest_of(TAR), self.in_manifest)])

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        return {digest: self.sizes[digest] for digest in digests if digest in self.sizes}

    @asynccontextmanager
    async def open_blob(self, digest: Digest) -> AsyncIterator[contract.BlobReader]:
        if digest not in self.blobs:
            raise NotFound("BLOB_UNKNOWN", "it is not here")
        yield InMemory(self.blobs[digest])


class InMemory:
    """Keeps ``contract.BlobReader``."""

    file = None

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._data = data

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        yield self._data[start:end]


class PullingEngine(TakingEngine):
    """One that pulls by itself, and so may be who asks the mirror."""

    can_pull = True


@asynccontextmanager
async def open_unpacked(folder: Path, tar_bytes: int, engine: TakingEngine) -> AsyncIterator[Pair]:
    """The first has the layer unpacked only; the second has ``engine``."""
    giver, taker = {"engine": UnpackedEngine(tar_bytes)}, {"engine": engine}
    async with open_pair(folder, giver=giver, taker=taker) as pair:
        pair[1].put_image(PEER, digest_of(CONFIG), "team/app:1", digest_of(MANIFEST))
        yield pair


@pytest.mark.parametrize("tar_bytes", [len(TAR), len(TAR) + 1000, len(TAR) - 1000])
async def test_a_peers_wrong_size_of_a_tar_reaches_no_manifest(
    tmp_path: Path, tar_bytes: int
) -> None:
    engine = PullingEngine()
    async with open_unpacked(tmp_path, tar_bytes, engine) as (_, taker):
        answer = await taker.backend.manifest(NAME, "1", for_engine=True)
        assert answer.data == MANIFEST
        is_right = tar_bytes == len(TAR)
        assert len(engine.loaded) == (1 if is_right else 0)
        assert await read_blob(taker, digest_of(LAYER)) == LAYER


async def test_a_manifest_of_an_image_that_was_only_built_says_what_its_holders_say(
    tmp_path: Path,
) -> None:
    engine, holder = PullingEngine(), UnpackedEngine(len(TAR))
    holder.in_manifest += 1000
    async with open_pair(tmp_path, giver={"engine": holder}, taker={"engine": engine}) as (
        _,
        taker,
    ):
        taker.put_image(PEER, digest_of(CONFIG), "team/app:built")
        right = diff_id_manifest(digest_of(CONFIG), len(CONFIG), [(digest_of(TAR), len(TAR))])
        answer = await taker.backend.manifest(NAME, "built", for_engine=True)
        assert answer.data == right.data
        assert await read_blob(taker, digest_of(TAR)) == TAR


@pytest.mark.parametrize("tar_bytes", [len(TAR), len(TAR) + 1000, len(TAR) - 1000])
async def test_a_pull_takes_another_way_where_a_peer_says_a_wrong_size(
    tmp_path: Path, tar_bytes: int
) -> None:
    engine = TakingEngine()
    async with open_unpacked(tmp_path, tar_bytes, engine) as (_, taker):
        done = await taker.pulls.pull("team/app:1")
        assert len(engine.loaded) == 1
        if tar_bytes == len(TAR):
            assert (done.bytes_from_peers, done.bytes_from_origin) == (len(TAR), 0)
        else:
            assert done.bytes_from_origin == len(LAYER)


async def test_a_manifest_with_a_peers_wrong_size_is_made_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where too much was to be loaded, nobody knows before the engine asks for the layer."""
    monkeypatch.setattr(delivery, "LOADED_BYTES_MAX", 0)
    async with open_unpacked(tmp_path, len(TAR) + 1000, PullingEngine()) as (_, taker):
        answer = await taker.backend.manifest(NAME, "1", for_engine=True)
        (layer,) = json.loads(answer.data or b"")["layers"]
        assert (layer["digest"], layer["size"]) == (digest_text(digest_of(TAR)), len(TAR) + 1000)
        with pytest.raises(MirrorError):  # and then it asks the registry itself
            await read_blob(taker, digest_of(TAR))
        again = await taker.backend.manifest(NAME, "1", for_engine=True)
        assert again.data == MANIFEST


async def test_who_did_not_give_what_it_said_is_not_heard_of_it_again() -> None:
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
        liars = list(said)[:2]
        lookup.suspect(wanted, liars)
        found = (await lookup.having([wanted], said))[wanted]
        assert (found.size_bytes, found.nodes) == (len(TAR), (NodeId(b"c" * 16),))
        assert (await lookup.having([wanted], liars)) == {}


async def test_of_several_members_at_one_address_the_one_that_asks_is_served(
    tmp_path: Path,
) -> None:
    data = content(1, 2**20)
    digest = digest_of(data)
    beside = [NodeId(b"a" * 16), NodeId(b"z" * 16)]
    async with open_pair(tmp_path, beside=beside) as (giver, taker):
        await giver.cache.put(digest, data)
        assert await giver.uploads.having([digest])
        wanted = BlobRequest(digest=digest, size_bytes=len(data), name=NAME, sources=(PEER,))
        async with taker.downloads.fetching(wanted) as download:
            assert download is not None
            await download.whole()
        assert {served.node for served in giver.uploads.served()} == {OWN}
