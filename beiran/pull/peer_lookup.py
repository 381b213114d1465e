"""Asking other agents what they can give: blobs, manifests, what tags meant.

Gossip tells who holds which image. What it does not tell (which compressed blobs lie in a cache,
the bytes of a manifest) is asked directly of a few who may know, all at once. Who does not answer
soon is passed over.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

import msgspec
import trio
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
"""How many peers are asked at once; gossip knows of a thousand holders of a popular image."""
TIMEOUT_S: Final = 1.0
HAVE_PATH: Final = "/blobs/have"
HAVE_DIGESTS_MAX: Final = 800
"""In one question: so many fit into its body; no engine takes an image of 400 layers."""
TAGS_PATH: Final = "/tags"
TAG_ANSWER_BYTES_MAX: Final = 16 * 1024
HAVE_ANSWER_BYTES_MAX: Final = 256 * 1024

_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
"""As ``clock.now_text`` writes it: what a peer says is compared, logged and shown to users."""

DOUBTED_S: Final = 300.0
"""So long a node is not believed to have a blob that it was to give and did not."""
DOUBTS_MAX: Final = 1000

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)


class HaveQuestion(Struct, frozen=True):
    """``POST /blobs/have``: which of these can you give?"""

    digests: Annotated[tuple[str, ...], Meta(max_length=HAVE_DIGESTS_MAX)]


class HaveAnswer(Struct, frozen=True):
    """Those that it can give, with their sizes in bytes."""

    blobs: dict[str, Annotated[int, Meta(ge=0, le=2**44)]]


class Near(Struct, frozen=True):
    """A blob that peers can give."""

    size_bytes: int
    nodes: tuple[NodeId, ...]


class Nearby:
    """Asks peers.

    Args:
      address_of: where a member is reached; None when it is not online.
    """

    def __init__(self, peers: PeerClient, address_of: Callable[[NodeId], Address | None]) -> None:
        self._peers: Final = peers
        self._address_of: Final = address_of
        self._doubted: dict[tuple[NodeId, Digest], float] = {}
        """Until when; the soonest to end come first."""
        self.doubts = 0

    def doubt(self, digest: Digest, nodes: Iterable[NodeId]) -> None:
        """These said that they can give a blob, of a certain size, and it did not come."""
        until = trio.current_time() + DOUBTED_S
        for node in nodes:
            self._doubted.pop((node, digest), None)
            self._doubted[(node, digest)] = until
            self.doubts += 1
        while len(self._doubted) > DOUBTS_MAX:
            del self._doubted[next(iter(self._doubted))]

    def _is_doubted(self, node: NodeId, digest: Digest) -> bool:
        return trio.current_time() < self._doubted.get((node, digest), 0.0)

    async def having(
        self, digests: Sequence[Digest], nodes: Iterable[NodeId]
    ) -> dict[Digest, Near]:
        """Which of these blobs the first ``ASKED_MAX`` of ``nodes`` can give, and their sizes.

        Where two disagree on a size the one that more of them say counts. Who is doubted is not
        heard.
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
        found: dict[Digest, Near] = {}
        for digest in wanted:
            sizes: dict[int, list[NodeId]] = {}
            for node, answer in answers:
                size = answer.blobs.get(digest_text(digest))
                if size is not None and not self._is_doubted(node, digest):
                    sizes.setdefault(size, []).append(node)
            if sizes:
                size, who = max(sizes.items(), key=lambda item: len(item[1]))
                found[digest] = Near(size, tuple(who))
        return found

    async def manifest(self, digest: Digest, nodes: Iterable[NodeId]) -> bytes | None:
        """The manifest or index with this digest, from whoever gives it first; checked."""

        async def ask(address: Address) -> bytes:
            path = f"/manifests/{digest_text(digest)}"
            data = await self._get(address, path, MANIFEST_BYTES_MAX)
            if digest_of(data) != digest:
                raise RemoteProtocolError(f"{address}{path} gave something else")
            return data

        answers = await self._ask_all(nodes, ask, first=True)
        return answers[0][1] if answers else None

    async def image_manifest(
        self, image: Digest, nodes: Iterable[NodeId]
    ) -> tuple[bytes, NodeId] | None:
        """The manifest by which somebody can give the image with this config, and who."""

        async def ask(address: Address) -> bytes:
            path = f"/images/{digest_text(image)}/manifest"
            data = await self._get(address, path, MANIFEST_BYTES_MAX)
            document = _read_manifest(address, path, data)
            if not isinstance(document, ImageManifest) or document.config.raw != image:
                raise RemoteProtocolError(f"{address}{path} is of another image")
            return data

        answers = await self._ask_all(nodes, ask, first=True)
        return (answers[0][1], answers[0][0]) if answers else None

    async def meanings(
        self, reference: str, nodes: Iterable[NodeId]
    ) -> list[tuple[NodeId, TagMeaning]]:
        """What a tag (whole, ``docker.io/library/busybox:1``) meant to them, and to whom."""
        path = f"{TAGS_PATH}?reference={quote(reference, safe='')}"

        async def ask(address: Address) -> TagMeaning:
            meaning = _read(await self._get(address, path, TAG_ANSWER_BYTES_MAX), TagMeaning)
            if meaning.reference != reference:
                raise RemoteProtocolError(f"{address}{path} speaks of another tag")
            try:
                parse_digest(meaning.digest)
            except ValueError as error:
                raise RemoteProtocolError(f"{address}{path}: {error}") from None
            if not _TIME.fullmatch(meaning.resolved_at):
                raise RemoteProtocolError(f"{address}{path} does not say since when")
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
        """Ask up to ``ASKED_MAX`` nodes at once; what they answered, the quickest first.

        Args:
          first: one answer is enough.
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
