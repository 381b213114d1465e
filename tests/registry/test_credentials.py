"""Credentials come from where ``docker login`` put them, and never stop a pull by being broken."""

import base64
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from beiran.registry.credentials import KEPT_S, Credentials, CredentialStore
from beiran.settings.settings import OriginSettings

HUB = "https://index.docker.io/v1/"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def find(
    tmp_path: Path, registry: str, config: Any, origins: dict[str, OriginSettings] | None = None
) -> Credentials | None:
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return await CredentialStore(origins or {}, path).find(registry)


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ("docker.io", HUB),
        ("docker.io", "index.docker.io"),
        ("docker.io", "docker.io"),
        ("r.example", "r.example"),
        ("r.example", "https://r.example"),
        ("r.example", "http://r.example/v1/"),
        ("r.example:5000", "r.example:5000"),
    ],
)
async def test_each_spelling_of_a_registry_is_found(
    tmp_path: Path, registry: str, key: str
) -> None:
    found = await find(tmp_path, registry, {"auths": {key: {"auth": encoded("u:p:q")}}})
    assert found == Credentials("u", "p:q")
    assert await find(tmp_path, "other.example", {"auths": {key: {"auth": "x"}}}) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "u", "password": "p"}, Credentials("u", "p")),
        ({"identitytoken": "t", "auth": encoded("u:p")}, Credentials(identity_token="t")),
        ({}, None),
        ({"auth": ""}, None),
    ],
)
async def test_the_forms_of_an_entry(
    tmp_path: Path, entry: dict[str, str], expected: Credentials | None
) -> None:
    assert await find(tmp_path, "r.example", {"auths": {"r.example": entry}}) == expected


async def test_the_settings_win_over_dockers_file(tmp_path: Path) -> None:
    config = {"auths": {"r.example": {"auth": encoded("u:p")}}}
    own = {"r.example": OriginSettings(username="me", password="mine")}
    assert await find(tmp_path, "r.example", config, own) == Credentials("me", "mine")


async def test_a_registry_that_is_elsewhere_does_not_get_the_credentials_of_its_name(
    tmp_path: Path,
) -> None:
    config = {"auths": {HUB: {"auth": encoded("hub:p")}, "c.example": {"auth": encoded("c:p")}}}
    own = {"docker.io": OriginSettings(url="https://c.example/hub")}
    assert await find(tmp_path, "docker.io", config, own) == Credentials("c", "p")
    own = {"docker.io": OriginSettings(url="https://d.example")}
    assert await find(tmp_path, "docker.io", config, own) is None


async def test_no_file_is_no_credentials(tmp_path: Path) -> None:
    assert await CredentialStore({}, None).find("r.example") is None
    assert await CredentialStore({}, tmp_path / "none.json").find("r.example") is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        (" " * (1024 * 1024 + 1), "larger than"),
        ({"auths": {"r.example": {"auth": "???"}}}, "not USER:PASSWORD in base64"),
        ({"auths": {"r.example": {"auth": encoded("nocolon")}}}, "not USER:PASSWORD"),
        ({"credsStore": "../x"}, "not the name of a credential helper"),
        ({"credsStore": "beiran-test-none"}, "cannot be run"),
    ],
)
async def test_what_cannot_be_used_is_logged_once_and_counts_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: Any, said: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    store = CredentialStore({}, path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert await store.find("r.example") is None
            store.forget("r.example")
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "config", [{}, {"auths": []}, {"auths": {"r.example": 1}}, {"credHelpers": 1, "credsStore": 2}]
)
async def test_a_file_of_another_shape_has_none(tmp_path: Path, config: Any) -> None:
    assert await find(tmp_path, "r.example", config) is None


class Helper:
    """A program that does what a test writes into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def does(self, script: str) -> None:
        self.path.write_text(f"#!/bin/sh\n{script}\n")

    @property
    def asked(self) -> str:
        return Path(f"{self.path}.asked").read_text()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Helper":
    """``docker-credential-test``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "docker-credential-test"
    path.touch(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Helper(path)


GIVES = """read registry
echo "$registry" >> "$0.asked"
echo '{"ServerURL": "x", "Username": "%s", "Secret": "s"}'
"""


@pytest.mark.parametrize("config", [{"credsStore": "test"}, {"credHelpers": {"docker.io": "test"}}])
async def test_a_helper_is_asked_by_dockers_name_of_the_registry(
    tmp_path: Path, helper: Helper, config: Any
) -> None:
    helper.does(GIVES % "u")
    assert await find(tmp_path, "docker.io", config) == Credentials("u", "s")
    assert helper.asked == HUB + "\n"


async def test_a_helper_may_give_an_identity_token(tmp_path: Path, helper: Helper) -> None:
    helper.does(GIVES % "<token>")
    found = await find(tmp_path, "r.example", {"credsStore": "test"})
    assert found == Credentials(identity_token="s")


async def test_a_helper_for_one_registry_is_not_asked_for_another(
    tmp_path: Path, helper: Helper
) -> None:
    helper.does(GIVES % "u")
    config = {"credHelpers": {"a.example": "test"}}
    assert await find(tmp_path, "b.example", config) is None


async def test_a_helper_that_has_none_leaves_it_to_the_file(tmp_path: Path, helper: Helper) -> None:
    helper.does("echo credentials not found in native keychain\nexit 1")
    config = {"credsStore": "test", "auths": {"r.example": {"auth": encoded("u:p")}}}
    assert await find(tmp_path, "r.example", config) == Credentials("u", "p")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "exit code 3"),
        ("echo nonsense", "not a credential"),
        ("echo '[]'", "not a credential"),
        ("""echo '{"Username": 1, "Secret": 2}'""", "not a credential"),
    ],
)
async def test_a_helper_that_fails_is_named(
    tmp_path: Path, helper: Helper, caplog: pytest.LogCaptureFixture, script: str, said: str
) -> None:
    helper.does(script)
    assert await find(tmp_path, "r.example", {"credsStore": "test"}) is None
    assert "docker-credential-test" in caplog.text
    assert said in caplog.text


async def test_what_was_found_counts_for_a_while_and_until_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    now = 0.0
    store = CredentialStore({}, path, clock=lambda: now)

    def login(password: str) -> None:
        path.write_text(json.dumps({"auths": {"r.example": {"auth": encoded(f"u:{password}")}}}))

    login("1")
    assert await store.find("r.example") == Credentials("u", "1")
    login("2")
    assert await store.find("r.example") == Credentials("u", "1")
    now += KEPT_S
    assert await store.find("r.example") == Credentials("u", "2")
    login("3")
    store.forget("r.example")
    assert await store.find("r.example") == Credentials("u", "3")


def test_secrets_do_not_show() -> None:
    assert "hidden" not in repr(Credentials("u", "hidden"))
    assert "hidden" not in repr(OriginSettings(username="u", password="hidden"))
