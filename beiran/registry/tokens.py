"""Authorize requests to a registry: challenges, tokens, Basic credentials.

A registry answers 401 and names in ``WWW-Authenticate`` what it accepts: Basic credentials, or a
token that a *realm* issues for a *scope* (pulling one repository). A token is kept until it
expires. A challenge is kept for its repository, so that the next request has its token at once.

Source: RFC 9110 §11 (challenges), RFC 6750 (Bearer), RFC 7617 (Basic); distribution's token
specification, ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import urlencode

import trio
from cachetools import LRUCache

from beiran.registry.credentials import Credentials, CredentialStore
from beiran.registry.errors import OriginBroken, OriginDenied
from beiran.registry.transport import read_url_untrusted

TOKEN_BYTES_MAX: Final = 64 * 1024
TOKEN_ANSWER_BYTES_MAX: Final = 256 * 1024
EXPIRES_DEFAULT_S: Final = 60.0  # distribution's token specification
EXPIRES_MIN_S: Final = 60.0  # distribution's client. A token that expired before gets a 401
EXPIRES_MAX_S: Final = 24 * 3600.0  # chosen
EXPIRY_MARGIN: Final = 0.1
"""The last tenth of a token's life is not used: a request with it would arrive too late."""

REMEMBERED_MAX: Final = 1000
"""Challenges, and tokens. The least recently used go first."""

CLIENT_ID: Final = "beiran"

_CHALLENGE: Final = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9!#$&.^_`|~+-]*)(?:\s+|\s*$|(?=,))")
_PARAMETER: Final = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=:-]+")


class Challenge(NamedTuple):
    """What a registry accepts. ``scheme`` is ``bearer`` or ``basic``."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


class TokenAnswer(NamedTuple):
    """The answer of a realm."""

    status: int
    data: bytes


TokenRequest = Callable[[str, str, str, list[tuple[str, str]], bytes], Awaitable[TokenAnswer]]
"""Sends a request to a registry's realm: registry, method, URL, headers, body.

Raises: OriginUnavailable, OriginBroken, OriginLimited.
"""


class _Token(NamedTuple):
    text: str
    until_s: float


class Authorizer:
    """Finds the ``Authorization`` header for requests to a repository."""

    def __init__(
        self,
        credentials: CredentialStore,
        ask: TokenRequest,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._credentials: Final = credentials
        self._ask: Final = ask
        self._clock: Final = clock
        self._challenges: LRUCache[tuple[str, str], Challenge] = LRUCache(REMEMBERED_MAX)
        self._tokens: LRUCache[tuple[str, Challenge], _Token] = LRUCache(REMEMBERED_MAX)
        self._asking: dict[tuple[str, Challenge], trio.Lock] = {}

    async def authorization(self, registry: str, repository: str) -> str | None:
        """The header from the last challenge of that repository; None before the first.

        Raises: OriginDenied; what asking the realm raises.
        """
        challenge = self._challenges.get((registry, repository))
        if challenge is None:
            return None
        return await self._answer(registry, challenge, refused=None)

    async def challenged(
        self,
        registry: str,
        repository: str,
        values: Iterable[str],
        *,
        refused: str | None,
        secure: bool,
        scope_name: str = "",
    ) -> str:
        """The header to send after a 401.

        Args:
          values: of its ``WWW-Authenticate`` headers.
          refused: the header that got the 401, which is not returned again.
          scope_name: the repository's name in the scope, where it differs.
          secure: whether the registry was asked over TLS. Then its realm must be, too.

        Raises: OriginDenied without usable credentials; OriginBroken for a challenge that is not
        readable; what asking the realm raises.
        """
        challenges = parse_challenges(values)
        bearer = [one for one in challenges if one.scheme == "bearer"]
        if bearer:
            challenge = bearer[0]
            realm = read_url_untrusted(challenge.realm)
            if secure and realm.scheme != "https":
                raise OriginBroken(
                    f"{registry} has TLS, but its token server {realm.place} has plain HTTP"
                )
            scope = challenge.scope or f"repository:{scope_name or repository}:pull"
            challenge = challenge._replace(scope=scope)
        elif challenges:
            challenge = challenges[0]
        else:
            raise OriginBroken(f"{registry} answers 401 without a Basic or Bearer challenge")
        answer = await self._answer(registry, challenge, refused=refused)
        self._challenges[registry, repository] = challenge
        return answer

    async def _answer(self, registry: str, challenge: Challenge, *, refused: str | None) -> str:
        if challenge.scheme == "basic":
            found = await self._credentials.find(registry)
            if found is None or not found.username:
                raise OriginDenied(
                    f"{registry} asks for a user and a password: docker login {registry} as the "
                    f'agent\'s user, or [origins."{registry}"] in beiran.toml'
                )
            if found.basic == refused:
                self._credentials.forget(registry)
                raise OriginDenied(_refused_text(registry, found))
            return found.basic
        key = (registry, challenge)
        lock = self._asking.setdefault(key, trio.Lock())
        try:
            async with lock:
                token = self._tokens.get(key)
                usable = token is not None and self._clock() < token.until_s
                if token is None or not usable or f"Bearer {token.text}" == refused:
                    self._tokens.pop(key, None)
                    token = await self._fetch(registry, challenge)
                    self._tokens[key] = token
                return f"Bearer {token.text}"
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._asking.pop(key, None)

    async def _fetch(self, registry: str, challenge: Challenge) -> _Token:
        found = await self._credentials.find(registry)
        query = [("service", challenge.service)] if challenge.service else []
        query.append(("scope", challenge.scope))
        asked_s = self._clock()
        if found is not None and found.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                *query,
                ("client_id", CLIENT_ID),
                ("refresh_token", found.identity_token),
            ]
            headers = [("Content-Type", "application/x-www-form-urlencoded")]
            body = urlencode(form).encode()
            answer = await self._ask(registry, "POST", challenge.realm, headers, body)
        else:
            headers = []
            if found is not None:
                headers.append(("Authorization", found.basic))
                query.append(("account", found.username))
            joint = "&" if "?" in challenge.realm else "?"
            url = challenge.realm + joint + urlencode(query)
            answer = await self._ask(registry, "GET", url, headers, b"")
        if answer.status in (400, 401, 403):
            self._credentials.forget(registry)
            if found is None:
                raise OriginDenied(
                    f"{registry} issues no token without credentials: docker login {registry}"
                )
            raise OriginDenied(_refused_text(registry, found))
        if answer.status != 200:
            raise OriginBroken(f"{registry}: its token server answers {answer.status}")
        return _read_token(registry, answer.data, asked_s)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Read ``WWW-Authenticate`` headers, each with one challenge or several. RFC 9110 §11.6.1.

    Other schemes, and parts that are not readable, are left out.
    """
    found = []
    for value in values:
        place = 0
        while scheme := _CHALLENGE.match(value, place):
            place = scheme.end()
            parameters = {}
            while parameter := _PARAMETER.match(value, place):
                place = parameter.end()
                text = re.sub(r"\\(.)", r"\1", parameter[2] or "") or parameter[3] or ""
                parameters[parameter[1].lower()] = text
            name = scheme[1].lower()
            if name == "basic":
                found.append(Challenge("basic"))
            elif name == "bearer" and parameters.get("realm"):
                found.append(
                    Challenge(
                        "bearer",
                        parameters["realm"],
                        parameters.get("service", ""),
                        parameters.get("scope", ""),
                    )
                )
    return found


def _read_token(registry: str, data: bytes, asked_s: float) -> _Token:
    try:
        answer = json.loads(data)
        text = answer.get("token") or answer.get("access_token")
        expires_s = answer.get("expires_in") or EXPIRES_DEFAULT_S
    except (ValueError, AttributeError, RecursionError):
        raise OriginBroken(f"{registry}: the answer of its token server is no token") from None
    if not isinstance(text, str) or len(text) > TOKEN_BYTES_MAX or not _TOKEN.fullmatch(text):
        raise OriginBroken(f"{registry}: the answer of its token server is no token")
    if not isinstance(expires_s, int | float) or isinstance(expires_s, bool) or expires_s < 0:
        expires_s = EXPIRES_DEFAULT_S
    life_s = min(max(float(expires_s), EXPIRES_MIN_S), EXPIRES_MAX_S) * (1 - EXPIRY_MARGIN)
    return _Token(text, asked_s + life_s)


def _refused_text(registry: str, found: Credentials) -> str:
    who = f"of {found.username!r}" if found.username else "(an identity token)"
    return f"{registry} refuses the credentials {who}: docker login {registry} again"
