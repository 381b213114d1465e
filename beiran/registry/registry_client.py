"""Ask registries for manifests, tags, sizes and ranges of blobs (OCI distribution specification).

A caller gets these or one of five failures (``errors.py``). Below, and not seen by it: tokens
(``tokens.py``) and passwords (``credentials.py``), redirects to storage hosts, which never get our
credentials, and second tries (``requests.py``), hosts that are down (``transport.py``). All
requests only read, so that each may be sent again.

Source: OCI distribution specification 1.1 (end-2, end-3, end-8a, end-8b); where it is silent,
distribution's ``registry/client`` and containerd's ``remotes/docker``.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import trio
from cachetools import TTLCache

from beiran.http.token_bucket import Pace, TokenBucket, reporting
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.manifests import MANIFEST_BYTES_MAX
from beiran.registry.errors import (
    OriginBroken,
    OriginDenied,
    OriginError,
    OriginLimited,
    OriginMissing,
    OriginUnavailable,
)
from beiran.registry.requests import NoHead, OriginRequests, Registry
from beiran.registry.responses import (
    SAYS_NOTHING,
    Manifest,
    ManifestHead,
    OriginBlob,
    OriginCounters,
    TagPage,
    manifest_type,
    read_blob_head,
    read_tags,
    refuse_html,
)
from beiran.registry.transport import (
    ANSWER_TIMEOUT_S,
    CERTS_DIR,
    CONNECT_TIMEOUT_S,
    Answer,
    OriginHttp,
    Url,
)
from beiran.settings.settings import Limit, OriginSettings

__all__ = [
    "Manifest",
    "ManifestHead",
    "OriginBlob",
    "OriginBroken",
    "OriginClient",
    "OriginDenied",
    "OriginError",
    "OriginLimited",
    "OriginMissing",
    "OriginUnavailable",
    "TagPage",
]

REDIRECT_KEPT_S: Final = 30.0
"""How long a blob's storage URL is used for its next ranges. Signed URLs last minutes."""

REDIRECTS_KEPT_MAX: Final = 1000  # of URL_CHARS_MAX at most: bounds memory to 8 MB; chosen
TAGS_BYTES_MAX: Final = 4 * 2**20  # as MANIFEST_BYTES_MAX; 128 characters make 30,000 tags


@asynccontextmanager
async def open_origin_client(
    origins: Mapping[str, OriginSettings],
    *,
    docker_config: Path | None,
    limit: Limit | None = None,
    certs_dir: Path | None = CERTS_DIR,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
) -> AsyncIterator["OriginClient"]:
    """A client of registries. Its connections are closed when the context is left.

    The HTTP library is imported with the first request, or a second after the client was opened.

    Args:
      origins: settings by the registry's canonical name.
      docker_config: Docker's ``config.json``; need not be there.
      limit: bytes per second of blobs from all registries together, blobs at once from each.
      certs_dir: Docker's folder of certificates, with one for each ``HOST[:PORT]``.
    """
    limit = limit or Limit()
    async with trio.open_nursery() as nursery:
        http = OriginHttp(
            nursery, connect_timeout_s=connect_timeout_s, answer_timeout_s=answer_timeout_s
        )
        requests = OriginRequests(
            http,
            origins,
            docker_config=docker_config,
            certs_dir=certs_dir,
            transfers_max=limit.at_once,
        )
        nursery.start_soon(http.preload)
        try:
            yield OriginClient(http, requests, TokenBucket(limit.bytes_per_s))
        finally:
            nursery.cancel_scope.cancel()
            await http.aclose()


class OriginClient:
    """Asks registries. Made by ``open_origin_client``.

    Every method takes a registry by its canonical name (``docker.io``) and a repository in full
    (``library/busybox``), and raises one of the ``OriginError``. A document takes at most
    ``DOCUMENT_TIMEOUT_S``, the head of a blob a few times ``ANSWER_TIMEOUT_S``; cancel a call to
    bound it further.
    """

    def __init__(self, http: OriginHttp, requests: OriginRequests, rate: TokenBucket) -> None:
        self._http: Final = http
        self._requests: Final = requests
        self._rate: Final = rate
        self._stored_at: TTLCache[tuple[str, str, Digest], Url] = TTLCache(
            REDIRECTS_KEPT_MAX, REDIRECT_KEPT_S, timer=trio.current_time
        )

    @property
    def counters(self) -> Mapping[str, OriginCounters]:
        """Requests, failures and blob bytes of each registry so far."""
        return {name: registry.counters for name, registry in self._requests.registries.items()}

    async def head_manifest(
        self, registry: str, repository: str, reference: str, *, accept: Sequence[str]
    ) -> ManifestHead:
        """The head of a manifest. Docker Hub does not count a HEAD as a pull.

        A registry without HEAD, or whose answer lacks digest or type, gets a GET.
        """
        path = f"manifests/{quote(reference, safe=':')}"
        headers = [("Accept", ", ".join(accept))] if accept else []
        try:
            answer, _ = await self._requests.document(registry, repository, "HEAD", path, headers)
        except NoHead:
            answer = None
        if answer is not None and answer.media_type not in SAYS_NOTHING:
            refuse_html(registry, answer)
            try:
                digest = parse_digest(answer.header("docker-content-digest") or "")
            except ValueError:
                pass
            else:
                if ":" in reference and reference != digest_text(digest):
                    raise OriginBroken(
                        f"{registry}: it answers a request for {reference} with another digest"
                    )
                return ManifestHead(digest, answer.media_type, answer.length)
        found = await self.manifest(registry, repository, reference, accept=accept)
        return ManifestHead(found.digest, found.media_type, len(found.data))

    async def manifest(
        self, registry: str, repository: str, reference: str, *, accept: Sequence[str]
    ) -> Manifest:
        """The manifest or index that a tag or digest names. Its bytes have that digest."""
        path = f"manifests/{quote(reference, safe=':')}"
        headers = [("Accept", ", ".join(accept))] if accept else []
        answer, data = await self._requests.document(
            registry, repository, "GET", path, headers, bytes_max=MANIFEST_BYTES_MAX
        )
        refuse_html(registry, answer)
        digest = Digest(hashlib.sha256(data).digest())
        text = digest_text(digest)
        said = reference if ":" in reference else answer.header("docker-content-digest")
        if said is not None and said.startswith("sha256:") and said != text:
            raise OriginBroken(f"{registry}: {repository}: it sent {text} as {said}")
        return Manifest(digest, manifest_type(registry, answer, data), data)

    async def blob_size(self, registry: str, repository: str, digest: Digest) -> int:
        """The size of a blob in bytes."""
        try:
            answer, _ = await self._requests.document(
                registry, repository, "HEAD", f"blobs/{digest_text(digest)}", []
            )
            if answer.length is not None and answer.media_type != "text/html":
                return answer.length
        except NoHead:
            pass
        async with self.open_blob(registry, repository, digest, start=0, end=1) as blob:
            if blob.size_bytes is None:
                raise OriginBroken(f"{registry} does not say the size of {digest_text(digest)}")
            return blob.size_bytes

    async def tags(
        self, registry: str, repository: str, *, n: int | None = None, last: str | None = None
    ) -> TagPage:
        """A page of a repository's tags: at most ``n``, after ``last``."""
        query = {"n": n, "last": last}
        given = urlencode({key: value for key, value in query.items() if value is not None})
        path = "tags/list" + (f"?{given}" if given else "")
        answer, data = await self._requests.document(
            registry, repository, "GET", path, [], bytes_max=TAGS_BYTES_MAX
        )
        refuse_html(registry, answer)
        return read_tags(registry, answer, data)

    @asynccontextmanager
    async def open_blob(
        self,
        registry: str,
        repository: str,
        digest: Digest,
        *,
        start: int = 0,
        end: int | None = None,
        held_back: Callable[[], object] = lambda: None,
    ) -> AsyncIterator[OriginBlob]:
        """Bytes ``start`` to ``end`` (not included; None: the last) of a blob.

        Waits while the limit of blobs at once from that registry is reached.

        Args:
          held_back: called every ``HELD_BACK_S`` while a limit of our own delays the blob.
        """
        if start < 0 or (end is not None and end <= start):
            raise ValueError(f"no range: {start} to {end}")
        place = self._requests.registry(registry)
        headers = [("Accept", "application/octet-stream, */*;q=0.9")]
        if start or end is not None:
            headers.append(("Range", f"bytes={start}-{'' if end is None else end - 1}"))
        async with _turn(place.transfers, held_back):
            answer = await self._open_blob(place, repository, digest, headers)
            try:
                yield read_blob_head(
                    answer,
                    digest,
                    start,
                    end,
                    registry=registry,
                    counters=place.counters,
                    pace=Pace(self._rate, held_back),
                )
            except OriginError:
                place.counters.failures += 1
                raise
            finally:
                await answer.aclose()

    # Blobs.

    async def _open_blob(
        self, place: Registry, repository: str, digest: Digest, headers: list[tuple[str, str]]
    ) -> Answer:
        key = (place.name, repository, digest)
        url = self._stored_at.get(key)
        if url is not None:
            try:
                answer = await self._http.ask("GET", url, trust=place.trust, headers=headers)
            except OriginError:
                self._stored_at.pop(key, None)  # the registry may know another place
            else:
                place.counters.requests += 1
                if answer.status in (200, 206):
                    return answer
                await answer.aclose()
                self._stored_at.pop(key, None)  # the signature ran out, most likely
        target = f"blobs/{digest_text(digest)}"
        answer = await self._requests.open(place, repository, "GET", target, headers, is_blob=True)
        if not answer.url.same_origin(place.base):
            self._stored_at[key] = answer.url
        return answer


@asynccontextmanager
async def _turn(transfers: trio.Semaphore, held_back: Callable[[], object]) -> AsyncIterator[None]:
    """One of the transfers that may run at once."""
    try:
        transfers.acquire_nowait()
    except trio.WouldBlock:
        async with reporting(held_back):
            await transfers.acquire()
    try:
        yield
    finally:
        transfers.release()
