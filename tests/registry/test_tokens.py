"""Challenges and tokens: which credentials go to which server."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import trio

from beiran.oci.manifests import OCI_MANIFEST
from beiran.registry.credentials import CredentialStore
from beiran.registry.registry_client import (
    OriginBroken,
    OriginClient,
    OriginDenied,
    OriginLimited,
    OriginUnavailable,
    open_origin_client,
)
from beiran.registry.tokens import Authorizer, Challenge, TokenAnswer, parse_challenges
from beiran.settings.settings import OriginSettings
from tests.registry.origin_server import Asked, OriginServer, Reply, open_origin_server

ACCEPT = (OCI_MANIFEST,)
MANIFEST = json.dumps({"mediaType": OCI_MANIFEST}).encode()


class TokenRegistry:
    """A registry that wants tokens of its own realm, as Docker Hub does."""

    def __init__(self, server: OriginServer) -> None:
        self.server = server
        self.valid: set[str] = set()
        self.issued = 0
        self.field = "token"
        self.expires_in: object = 300
        self.scope = ',scope="repository:{}:pull"'
        self.grants = True
        server.answer = self.answer

    @property
    def fetched(self) -> list[Asked]:
        return [asked for asked in self.server.asked if asked.target.startswith("/token")]

    def answer(self, asked: Asked) -> Reply:
        if asked.target.startswith("/token"):
            return self.issue(asked)
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and token in self.valid:
            return Reply(200, {"Content-Type": OCI_MANIFEST}, MANIFEST)
        scope = self.scope.format(asked.target.split("/manifests/")[0].removeprefix("/v2/"))
        realm = f'Bearer realm="{self.server.url}/token",service="reg.example"{scope}'
        return Reply(401, {"WWW-Authenticate": realm})

    def issue(self, asked: Asked) -> Reply:
        self.issued += 1
        token = f"token-{self.issued}"
        if self.grants:
            self.valid.add(token)
        body = {self.field: token, "expires_in": self.expires_in}
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


@pytest.fixture
async def registry() -> AsyncIterator[TokenRegistry]:
    async with open_origin_server() as server:
        yield TokenRegistry(server)


@asynccontextmanager
async def open_client(
    origins: dict[str, OriginSettings] | None = None, docker_config: Path | None = None
) -> AsyncIterator[OriginClient]:
    opening = open_origin_client(origins or {}, docker_config=docker_config, certs_dir=None)
    async with opening as client:
        yield client


async def pull(client: OriginClient, registry: TokenRegistry, repository: str = "a/b") -> None:
    found = await client.manifest(registry.server.name, repository, "1", accept=ACCEPT)
    assert found.data == MANIFEST


@pytest.mark.parametrize("field", ["token", "access_token"])
async def test_a_token_without_credentials_is_used_again(
    registry: TokenRegistry, field: str
) -> None:
    registry.field = field
    async with open_client() as client:
        await pull(client, registry)
        await pull(client, registry)
    assert len(registry.fetched) == 1
    assert len(registry.server.asked) == 4  # 401, token, manifest, manifest
    query = parse_qs(urlsplit(registry.fetched[0].target).query)
    assert query == {"service": ["reg.example"], "scope": ["repository:a/b:pull"]}
    assert "authorization" not in registry.fetched[0].headers


async def test_a_challenge_without_a_scope_means_to_pull_that_repository(
    registry: TokenRegistry,
) -> None:
    registry.scope = ""
    async with open_client() as client:
        await pull(client, registry)
    query = parse_qs(urlsplit(registry.fetched[0].target).query)
    assert query["scope"] == ["repository:a/b:pull"]


async def test_each_repository_has_a_token_of_its_own(registry: TokenRegistry) -> None:
    async with open_client() as client:
        for repository in ("a/b", "a/c", "a/b"):
            await pull(client, registry, repository)
    assert len(registry.fetched) == 2


async def test_many_requests_for_one_token_fetch_it_once(registry: TokenRegistry) -> None:
    async with open_client() as client, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(pull, client, registry)
    assert len(registry.fetched) == 1


async def test_a_token_that_is_refused_is_replaced_once(registry: TokenRegistry) -> None:
    async with open_client() as client:
        await pull(client, registry)
        registry.valid.clear()
        await pull(client, registry)
        assert len(registry.fetched) == 2
        registry.valid.clear()
        registry.grants = False
        with pytest.raises(OriginDenied, match="docker login"):
            await pull(client, registry)
        assert len(registry.fetched) <= 4


@pytest.mark.parametrize(
    ("expires_in", "kept_s"), [(300, 270), (1, 54), (None, 54), ("soon", 54), (10**12, 77_760)]
)
async def test_a_token_is_kept_for_most_of_its_life(expires_in: object, kept_s: float) -> None:
    now, asked = 0.0, 0

    async def ask(*question: object) -> TokenAnswer:
        nonlocal asked
        asked += 1
        return TokenAnswer(200, json.dumps({"token": "t", "expires_in": expires_in}).encode())

    authorizer = Authorizer(CredentialStore({}, None), ask, clock=lambda: now)
    challenge = ['Bearer realm="https://r.example/token"']
    await authorizer.challenged("r.example", "a", challenge, refused=None, secure=True)
    now = kept_s - 1
    assert await authorizer.authorization("r.example", "a") == "Bearer t"
    assert asked == 1
    now = kept_s + 1
    await authorizer.authorization("r.example", "a")
    assert asked == 2


async def test_a_registry_with_tls_must_have_a_realm_with_tls() -> None:
    async def ask(*question: object) -> TokenAnswer:
        raise AssertionError

    authorizer = Authorizer(CredentialStore({}, None), ask)
    challenge = ['Bearer realm="http://r.example/token"']
    with pytest.raises(OriginBroken, match="has plain HTTP"):
        await authorizer.challenged("r.example", "a", challenge, refused=None, secure=True)


async def test_credentials_go_to_the_realm_and_not_to_the_registry(
    registry: TokenRegistry,
) -> None:
    name = registry.server.name
    async with open_client({name: OriginSettings(username="u", password="p:q")}) as client:
        await pull(client, registry)
    fetched = registry.fetched[0]
    assert fetched.headers["authorization"] == "Basic " + base64.b64encode(b"u:p:q").decode()
    assert dict(parse_qsl(urlsplit(fetched.target).query))["account"] == "u"
    others = [asked for asked in registry.server.asked if asked is not fetched]
    assert not any("Basic" in asked.headers.get("authorization", "") for asked in others)


async def test_an_identity_token_is_exchanged(registry: TokenRegistry, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {registry.server.name: {"identitytoken": "id"}}}))
    async with open_client(docker_config=config) as client:
        await pull(client, registry)
    fetched = registry.fetched[0]
    assert fetched.line == "POST /token"
    assert dict(parse_qsl(fetched.body.decode())) == {
        "grant_type": "refresh_token",
        "service": "reg.example",
        "scope": "repository:a/b:pull",
        "client_id": "beiran",
        "refresh_token": "id",
    }


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(401), OriginDenied, "without credentials: docker login"),
        (Reply(403), OriginDenied, "without credentials: docker login"),
        (Reply(429, {"Retry-After": "9"}), OriginLimited, "again in 9 s"),
        (Reply(502), OriginUnavailable, "answers 502"),
        (Reply(302, {"Location": "/"}), OriginBroken, "answers 302"),
        (Reply(200, {}, b"<html>"), OriginBroken, "is no token"),
        (Reply(200, {}, b"[]"), OriginBroken, "is no token"),
        (Reply(200, {}, b"{}"), OriginBroken, "is no token"),
        (Reply(200, {}, b'{"token": "a\\r\\nHost: b"}'), OriginBroken, "is no token"),
        (Reply(200, {}, b" " * 300_000), OriginBroken, "more than"),
    ],
)
async def test_each_wrong_answer_of_a_realm_has_its_error(
    registry: TokenRegistry, reply: Reply, error: type[Exception], said: str
) -> None:
    registry.issue = lambda asked: reply  # type: ignore[method-assign]
    async with open_client() as client:
        with pytest.raises(error, match=said):
            await pull(client, registry)


async def test_credentials_that_the_realm_refuses_are_named_without_the_password(
    registry: TokenRegistry,
) -> None:
    registry.issue = lambda asked: Reply(401)  # type: ignore[method-assign]
    origins = {registry.server.name: OriginSettings(username="u", password="hidden")}
    async with open_client(origins) as client:
        with pytest.raises(OriginDenied, match="refuses the credentials of 'u'") as caught:
            await pull(client, registry)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("realm", ["ftp://x/", "http://[::1", "/token", "file:///etc/passwd"])
async def test_a_realm_that_cannot_be_asked_is_refused(realm: str) -> None:
    async with open_origin_server() as server, open_client() as client:
        server.answer = lambda asked: Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})
        with pytest.raises(OriginBroken):
            await client.manifest(server.name, "a", "1", accept=ACCEPT)


CHALLENGES: list[tuple[list[str], list[Challenge]]] = [
    ([], []),
    (["Basic"], [Challenge("basic")]),
    (['Basic realm="a, b"'], [Challenge("basic")]),
    (
        ['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
        [Challenge("bearer", "https://a/t", "s", "repository:a/b:pull,push")],
    ),
    (['bEARER  Realm = "r" , service=s'], [Challenge("bearer", "r", "s")]),
    (
        ['Basic realm="x", Bearer realm="r", error="insufficient_scope"'],
        [Challenge("basic"), Challenge("bearer", "r")],
    ),
    (["Basic", 'Bearer realm="r"'], [Challenge("basic"), Challenge("bearer", "r")]),
    ([r'Bearer realm="a\"b"'], [Challenge("bearer", 'a"b')]),
    (["Bearer"], []),
    (["Negotiate", 'Digest realm="r"'], []),
    (["", ",,,", "=", '"'], []),
]


@pytest.mark.parametrize(("values", "expected"), CHALLENGES)
def test_challenges_as_they_may_be_written(values: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(values) == expected
