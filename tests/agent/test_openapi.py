"""The description of the API, its document, and the server: each says what the others do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case

from beiran import models
from beiran.agent.api import OPENAPI_FILE, api_routes
from beiran.agent.bus import Bus
from beiran.agent.openapi import openapi_document, openapi_text
from beiran.events import EVENT_NAMES, Event
from beiran.gossip.member import Status
from beiran.ids import digest_text
from tests.agent.api_server import TAR_DIGEST, ServerThread, SmallAgent
from tests.store.pictures import changed, described, held, holding, open_store

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "api.md").read_text()

schema = schemathesis.openapi.from_path(OPENAPI_FILE)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with ServerThread(tmp_path_factory.mktemp("api")) as api:
        api.happen(
            changed("peer"),
            changed("gone", Status.DOWN),
            described("app", "base", "top"),
            held("me", holding("app", "app:1")),
            held("peer", holding("app", "app:2"), holding("web", "host:5000/web:1")),
        )
        yield api


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_answers_as_its_document_says(case: Case[Any], api: ServerThread) -> None:
    if "node" in case.query and str(case.query.get("all")).lower() == "true":
        del case.query["all"]  # OpenAPI cannot say that two parameters exclude each other
    case.call_and_validate(base_url=api.server.url)


def test_the_committed_document_is_the_one_that_the_models_make() -> None:
    assert OPENAPI_FILE.read_text() == openapi_text(), (
        "run: python -m beiran.agent.openapi > beiran/openapi.json"
    )


def test_the_server_serves_its_document(api: ServerThread) -> None:
    answer = api.server.ask("/openapi.json")
    assert json.loads(answer.body) == json.loads(openapi_text())


def test_every_route_is_in_the_document_and_in_the_guide_and_no_other_is(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    routes = {
        re.sub(r"\{(\w+):path\}", r"{\1}", route.pattern)
        for route in api_routes(SmallAgent(), store, Bus())
    }
    store.close()
    assert set(openapi_document()["paths"]) == routes
    headings = re.findall(r"^### GET (\S+)$", GUIDE, re.MULTILINE)
    assert sorted(headings) == sorted(routes)


def test_every_parameter_is_in_the_guide() -> None:
    for path, operations in openapi_document()["paths"].items():
        section = GUIDE.split(f"### GET {path}\n")[1].split("\n### ")[0]
        for parameter in operations["get"].get("parameters", ()):
            assert f"`{parameter['name']}" in section, (path, parameter["name"])


@pytest.mark.parametrize("model", ["Node", "Image", "Layer", "Info", "EngineInfo", "ErrorItem"])
def test_every_field_is_in_the_guide_and_no_other_is(model: str) -> None:
    section = GUIDE.split(f"### {model}\n")[1].split("\n### ")[0].split("\n## ")[0]
    table = section.split("| field | |\n")[1].split("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    fields = [field.encode_name for field in msgspec.structs.fields(getattr(models, model))]
    assert documented == fields


def test_every_event_and_its_fields_are_in_the_guide() -> None:
    section = GUIDE.split("### Event\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    fields = [field.encode_name for field in msgspec.structs.fields(Event)]
    assert rows == [*fields, *EVENT_NAMES]


def test_every_code_of_an_error_is_in_the_guide() -> None:
    sources = [
        path.read_text()
        for folder in ("agent", "net", "store")
        for path in (ROOT / "beiran" / folder).glob("*.py")
    ]
    raised = {
        code
        for source in sources
        for code in re.findall(
            r'(?:ApiError|HttpError|NotFound)\(\s*(?:\d+,\s*)?"([A-Z_]+)"|code="([A-Z_]+)"', source
        )
        for code in code
        if code
    }
    assert raised
    section = GUIDE.split("## Errors\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE))
    assert raised <= documented


def test_the_guides_examples_are_what_the_server_answers(api: ServerThread) -> None:
    """Every ``curl`` of the guide works; its UUIDs and digests stand for those of the test."""
    examples = re.findall(r"^\$ curl (.*)$", GUIDE, re.MULTILINE)
    assert len(examples) > 5
    for example in examples:
        path = re.search(r"http://localhost:8888(/[^\s'\"]*)", example)
        assert path is not None, example
        concrete = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", _own_uuid(api), path[1])
        concrete = re.sub(r"(?<=/layers/)sha256:[0-9a-f]{64}", digest_text(TAR_DIGEST), concrete)
        answer = api.server.ask(concrete)
        assert answer.status == 200, (example, answer.body[:200])


def _own_uuid(api: ServerThread) -> str:
    uuid = msgspec.json.decode(api.server.ask("/info").body)["uuid"]
    assert isinstance(uuid, str)
    return uuid
