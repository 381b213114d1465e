"""Ask other agents what they can give: blobs, manifests, and what a tag named when they last knew.

Gossip says which node holds which image. What it does not say (which compressed blobs lie in a
cache, the bytes of a manifest) is asked directly of at most ``ASKED_MAX`` peers at once. A peer
that does not answer within ``TIMEOUT_S`` is passed over.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

import msgspec
import trio
from cachetools import TTLCache
from msgspec import Meta, Struct

from beiran.api.models import TagMeaning
from beiran.errors import RemoteProtocolError
from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId, digest_text, parse_digest
from beiran.oci.manifests import (
    MANIFEST_BYTES_MAX,
    BadManifest,
    ImageManifest,
    Index,
    digest_of,
    read_manifest,
)
from beiran.peers.peer_client import PeerClient, PeerRefused, PeerUnreachable

ASKED_MAX: Final = 8
"""How many peers are asked at once, though gossip may know a thousand holders of an image. More
sources join through the swarm once the download runs. Chosen, not measured."""

TIMEOUT_S: Final = 1.0
"""How long a peer has to answer; the engine's user waits meanwhile. Chosen."""

HAVE_PATH: Final = "/blobs/have"
HAVE_DIGESTS_MAX: Final = 800
"""In one question: they fit into 64 KiB, the largest body of a request. Each layer needs two."""
TAGS_PATH: Final = "/tags"
TAG_ANSWER_BYTES_MAX: Final = 16 * 1024  # a digest, a time and a media type
HAVE_ANSWER_BYTES_MAX: Final = 256 * 1024  # HAVE_DIGESTS_MAX digests with sizes take 70 KB

_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
"""The format of ``clock.now_text``. Times of peers are compared, logged and shown to users."""

SUSPECT_S: Final = 300.0
"""How long a peer is not asked for a blob that it said it has and did not give. Chosen: longer
than a pull and its retries."""

SUSPECTS_MAX: Final = 1000
"""Pairs of peer and blob; about 200 kB."""

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)


class HaveQuestion(Struct, frozen=True):
    """``POST /blobs/have``: which of these can you give?"""

    digests: Annotated[tuple[str, ...], Meta(max_length=HAVE_DIGESTS_MAX)]


class HaveAnswer(Struct, frozen=True):
    """The blobs that a node can give, with their sizes in bytes."""

    blobs: dict[str, Annotated[int, Meta(ge=0, le=2**44)]]


class FoundBlob(Struct, frozen=True):
    """A blob that peers can give: its size, as most of them say, and which they are."""

    size_bytes: int
    nodes: tuple[NodeId, ...]


class PeerLookup:
    """Asks peers.

    Args:
      address_of: the address of a member; None when it is not online.
    """

    def __init__(self, peers: PeerClient, address_of: Callable[[NodeId], Address | None]) -> None:
        self._peers: Final = peers
        self._address_of: Final = address_of
        self._suspects: TTLCache[tuple[NodeId, Digest], None] = TTLCache(
            SUSPECTS_MAX, SUSPECT_S, timer=trio.current_time
        )

    def suspect(self, digest: Digest, nodes: Iterable[NodeId]) -> None:
        """These peers said that they have a blob of a certain size, and it did not come."""
        for node in nodes:
            self._suspects[node, digest] = None

    def is_suspect(self, node: NodeId, digest: Digest) -> bool:
        """Whether a peer's word about a blob does not count now."""
        return (node, digest) in self._suspects

    async def having(
        self, digests: Sequence[Digest], nodes: Iterable[NodeId]
    ) -> dict[Digest, FoundBlob]:
        """Which of these blobs the first ``ASKED_MAX`` of ``nodes`` can give, and their sizes.

        Of several sizes the one counts that most peers say. Suspects do not count.
        """
        wanted = list(dict.fromkeys(digests))[:HAVE_DIGESTS_MAX]
        if not wanted:
            return {}
        body = msgspec.json.encode({"digests": [digest_text(digest) for digest in wanted]})

        async def ask(address: Address) -> HaveAnswer:
            data = await self._peers.post(
                address,
                HAVE_PATH,
                body,
                timeout_s=TIMEOUT_S,
                response_bytes_max=HAVE_ANSWER_BYTES_MAX,
            )
            return _read(data, HaveAnswer)

        answers = await self._ask_all(nodes, ask)
        found: dict[Digest, FoundBlob] = {}
        for digest in wanted:
            sizes: dict[int, list[NodeId]] = {}
            for node, answer in answers:
                size = answer.blobs.get(digest_text(digest))
                if size is not None and not self.is_suspect(node, digest):
                    sizes.setdefault(size, []).append(node)
            if sizes:
                size, sources = max(sizes.items(), key=lambda item: len(item[1]))
                found[digest] = FoundBlob(size, tuple(sources))
        return found

    async def manifest(self, digest: Digest, nodes: Iterable[NodeId]) -> bytes | None:
        """The manifest or index with this digest, from the first peer that gives it; checked."""

        async def ask(address: Address) -> bytes:
            path = f"/manifests/{digest_text(digest)}"
            data = await self._get(address, path, MANIFEST_BYTES_MAX)
            if digest_of(data) != digest:
                raise RemoteProtocolError(f"{address}{path} gave other bytes than that digest's")
            return data

        answers = await self._ask_all(nodes, ask, first=True)
        return answers[0][1] if answers else None

    async def image_manifest(self, image: Digest, nodes: Iterable[NodeId]) -> bytes | None:
        """A manifest of which a peer can give all blobs, for the image with this config."""

        async def ask(address: Address) -> bytes:
            path = f"/images/{digest_text(image)}/manifest"
            data = await self._get(address, path, MANIFEST_BYTES_MAX)
            document = _read_manifest(address, path, data)
            if not isinstance(document, ImageManifest) or document.config.raw != image:
                raise RemoteProtocolError(f"{address}{path} is the manifest of another image")
            return data

        answers = await self._ask_all(nodes, ask, first=True)
        return answers[0][1] if answers else None

    async def tag_meanings(
        self, reference: str, nodes: Iterable[NodeId]
    ) -> list[tuple[NodeId, TagMeaning]]:
        """What ``docker.io/library/busybox:1``, say, named when each peer last knew."""
        path = f"{TAGS_PATH}?reference={quote(reference, safe='')}"

        async def ask(address: Address) -> TagMeaning:
            meaning = _read(await self._get(address, path, TAG_ANSWER_BYTES_MAX), TagMeaning)
            if meaning.reference != reference:
                raise RemoteProtocolError(f"{address}{path} answers for another tag")
            try:
                parse_digest(meaning.digest)
            except ValueError as error:
                raise RemoteProtocolError(f"{address}{path}: {error}") from None
            if not _TIME.fullmatch(meaning.resolved_at):
                raise RemoteProtocolError(f"{address}{path} has no valid resolved_at")
            return meaning

        return await self._ask_all(nodes, ask)

    async def _get(self, address: Address, path: str, bytes_max: int) -> bytes:
        return await self._peers.get(
            address, path, timeout_s=TIMEOUT_S, response_bytes_max=bytes_max
        )

    async def _ask_all(
        self,
        nodes: Iterable[NodeId],
        ask: Callable[[Address], Awaitable[T]],
        *,
        first: bool = False,
    ) -> list[tuple[NodeId, T]]:
        """Ask up to ``ASKED_MAX`` nodes at once. Returns: their answers, the quickest first.

        Args:
          first: return after the first answer.
        """
        answers: list[tuple[NodeId, T]] = []
        async with trio.open_nursery() as nursery:

            async def one(node: NodeId, address: Address) -> None:
                try:
                    answer = await ask(address)
                except (PeerRefused, PeerUnreachable, RemoteProtocolError, OSError) as error:
                    _log.debug("asking %s: %s", address, error)
                    return
                answers.append((node, answer))
                if first:
                    nursery.cancel_scope.cancel()

            asked = 0
            for node in dict.fromkeys(nodes):
                address = self._address_of(node)
                if address is not None and asked < ASKED_MAX:
                    asked += 1
                    nursery.start_soon(one, node, address)
        return answers


def _read(data: bytes, type: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"an answer cannot be read: {error}") from None


def _read_manifest(address: Address, path: str, data: bytes) -> ImageManifest | Index:
    try:
        return read_manifest(data)
    except BadManifest as error:
        raise RemoteProtocolError(f"{address}{path}: {error}") from None
