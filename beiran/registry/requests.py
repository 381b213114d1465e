"""Send a request to a registry until it has a usable answer: challenges, redirects, second tries.

``registry_client.py`` calls it, ``transport.py`` sends each single request.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import trio
from cachetools import LRUCache

from beiran.oci.references import DOCKER_HUB
from beiran.registry.credentials import CredentialStore
from beiran.registry.errors import OriginBroken, OriginError, OriginUnavailable
from beiran.registry.responses import OriginCounters, error_of, limited
from beiran.registry.tokens import TOKEN_ANSWER_BYTES_MAX, Authorizer, TokenAnswer
from beiran.registry.transport import (
    Answer,
    OriginHttp,
    Trust,
    Url,
    is_loopback,
    read_url_untrusted,
)
from beiran.settings.settings import OriginSettings

DOCKER_HUB_URL: Final = "https://registry-1.docker.io"
RETRY_DELAYS_S: Final = (0.1, 0.4)
"""Delays before the second and third try of a request that broke off or got a 5xx. Chosen."""

CHALLENGES_MAX: Final = 2
"""The first challenge gets a token, the second replaces one that expired."""

REDIRECTS_MAX: Final = 5  # chosen; registries need one

QUESTIONS_AT_ONCE_MAX: Final = 32  # documents, from one registry; chosen
TRANSFERS_AT_ONCE_MAX: Final = 32  # blobs, from one registry, without a limit in the settings
REGISTRIES_MAX: Final = 1000  # with limiters in memory; a host pulls from a few; chosen
DOCUMENT_TIMEOUT_S: Final = 30.0
"""For a manifest or a page of tags to its last byte, with second tries and tokens."""

ERROR_BYTES_MAX: Final = 4096  # the message of an error is cut to ERROR_CHARS_MAX anyway

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_AGAIN: Final = (500, 502, 503, 504)
_NO_HEAD: Final = (400, 405, 501)


class NoHead(OriginBroken):
    """The registry does not support HEAD."""


class Registry:
    """One registry: its address, limits and counters."""

    def __init__(
        self, name: str, settings: OriginSettings, certs_dir: Path | None, transfers_max: int
    ) -> None:
        self.name: Final = name
        url = read_url_untrusted(settings.url or _usual_url(name, settings.plain_http))
        self.base: Final = url.with_target("/")
        self.prefix: Final = url.target.strip("/") + "/" if url.target.strip("/") else ""
        certs = None if certs_dir is None else certs_dir / self.base.place
        self.trust: Final = Trust(settings.ca, certs)
        self.questions: Final = trio.Semaphore(QUESTIONS_AT_ONCE_MAX)
        self.transfers: Final = trio.Semaphore(transfers_max)
        self.counters: Final = OriginCounters()

    def url_of(self, repository: str, target: str) -> Url:
        """The URL of ``target`` below the repository's path in the API."""
        return self.base.with_target(f"/v2/{self.prefix}{quote(repository, safe='/')}/{target}")


class OriginRequests:
    """Sends requests that only read, until a usable answer or an error."""

    def __init__(
        self,
        http: OriginHttp,
        origins: Mapping[str, OriginSettings],
        *,
        docker_config: Path | None,
        certs_dir: Path | None,
        transfers_max: int | None,
    ) -> None:
        """``transfers_max``: blobs at once from each registry."""
        self._http: Final = http
        self._origins: Final = origins
        self._certs_dir: Final = certs_dir
        self._transfers_max: Final = transfers_max or TRANSFERS_AT_ONCE_MAX
        self._authorizer: Final = Authorizer(
            CredentialStore(origins, docker_config), self._ask_realm
        )
        self._registries: LRUCache[str, Registry] = LRUCache(REGISTRIES_MAX)

    @property
    def registries(self) -> Mapping[str, "Registry"]:
        """The registries that requests went to, by name."""
        return self._registries

    async def document(
        self,
        registry: str,
        repository: str,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        *,
        bytes_max: int = 0,
    ) -> tuple[Answer, bytes]:
        """Send a request whose answer is small; the answer and its body."""
        place = self.registry(registry)
        try:
            with trio.fail_after(DOCUMENT_TIMEOUT_S):
                async with place.questions:
                    for delay_s in (*RETRY_DELAYS_S, None):
                        answer = await self.open(place, repository, method, target, headers)
                        try:
                            if method == "HEAD":
                                return answer, await answer.read_some(0)
                            return answer, await answer.read(bytes_max)
                        except OriginUnavailable:
                            if delay_s is None:
                                raise
                            await trio.sleep(delay_s)
                        finally:
                            await answer.aclose()
        except trio.TooSlowError:
            place.counters.failures += 1
            raise OriginUnavailable(
                f"{place.base.place} takes longer than {DOCUMENT_TIMEOUT_S:g} s"
            ) from None
        raise AssertionError("the last try returns or raises")

    async def open(
        self,
        place: Registry,
        repository: str,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        *,
        is_blob: bool = False,
    ) -> Answer:
        """The head of the first answer with 200 or 206."""
        url = place.url_of(repository, target)
        delays_s = iter(RETRY_DELAYS_S)
        challenges = 0
        try:
            while True:
                try:
                    authorization = await self._authorizer.authorization(place.name, repository)
                    answer = await self._follow(
                        place, method, url, authorization, headers, is_blob=is_blob
                    )
                except OriginUnavailable as error:
                    delay_s = next(delays_s, None) if error.again else None
                    if delay_s is None:
                        raise
                    await trio.sleep(delay_s)
                    continue
                if answer.status in (200, 206):
                    return answer
                text = await answer.read_some(ERROR_BYTES_MAX)
                await answer.aclose()
                if answer.status == 401 and answer.url.same_origin(url):
                    challenges += 1
                    if challenges <= CHALLENGES_MAX:
                        await self._authorizer.challenged(
                            place.name,
                            repository,
                            answer.headers("www-authenticate"),
                            refused=authorization,
                            secure=url.scheme == "https",
                            scope_name=place.prefix + repository,
                        )
                        continue
                if answer.status in _AGAIN and (delay_s := next(delays_s, None)) is not None:
                    await trio.sleep(delay_s)
                    continue
                if answer.status in _NO_HEAD and method == "HEAD":
                    raise NoHead(f"{place.name} does not support HEAD")
                raise error_of(place.name, place.base, repository, target, answer, text)
        except OriginError:
            place.counters.failures += 1
            raise

    async def _follow(
        self,
        place: Registry,
        method: str,
        url: Url,
        authorization: str | None,
        headers: list[tuple[str, str]],
        *,
        is_blob: bool,
    ) -> Answer:
        """Send a request and follow redirects. Only the registry's own host gets credentials."""
        secret = [] if authorization is None else [("Authorization", authorization)]
        current = url
        for _ in range(REDIRECTS_MAX + 1):
            place.counters.requests += 1
            sent = [*headers, *(secret if current.same_origin(url) else [])]
            answer = await self._http.ask(method, current, trust=place.trust, headers=sent)
            if answer.status not in _REDIRECTS:
                return answer
            await answer.read_some(ERROR_BYTES_MAX)  # so that the connection can be kept
            await answer.aclose()
            location = answer.header("location")
            if location is None:
                raise OriginBroken(f"{current.place} redirects without a Location")
            onward = read_url_untrusted(location, current)
            if current.scheme == "https" and onward.scheme == "http" and not is_blob:
                # A blob is checked by its digest. A tag's manifest is not.
                raise OriginBroken(f"{current.place} redirects from HTTPS to plain HTTP")
            current = onward
        raise OriginBroken(f"{url.place} redirects more than {REDIRECTS_MAX} times")

    async def _ask_realm(
        self, registry: str, method: str, url: str, headers: list[tuple[str, str]], body: bytes
    ) -> TokenAnswer:
        place = self.registry(registry)
        place.counters.requests += 1
        answer = await self._http.ask(
            method, read_url_untrusted(url), trust=place.trust, headers=headers, body=body
        )
        try:
            if answer.status == 429:
                raise limited(f"{answer.url.place} (tokens of {registry})", answer)
            if answer.status >= 500:
                raise OriginUnavailable(
                    f"{answer.url.place} (tokens of {registry}) answers {answer.status}",
                    again=True,
                )
            return TokenAnswer(answer.status, await answer.read(TOKEN_ANSWER_BYTES_MAX))
        finally:
            await answer.aclose()

    def registry(self, name: str) -> Registry:
        """The registry of that name, with its settings. Raises: OriginBroken."""
        found = self._registries.get(name)
        if found is None:
            settings = self._origins.get(name, OriginSettings())
            found = Registry(name, settings, self._certs_dir, self._transfers_max)
            self._registries[name] = found
        return found


def _usual_url(name: str, plain_http: bool) -> str:
    """The URL of a registry without one in the settings. Like Docker, plain HTTP on loopback."""
    if name == DOCKER_HUB:
        return DOCKER_HUB_URL
    host = re.sub(r":[0-9]+$", "", name)
    return f"{'http' if plain_http or is_loopback(host) else 'https'}://{name}"
