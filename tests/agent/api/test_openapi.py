"""The guide of the API, the OpenAPI document and the server agree with each other."""

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error

from beiran.agent.api.openapi import openapi_document, openapi_route
from beiran.agent.api.peer_routes import PeerRoutes
from beiran.agent.api.pull_routes import PullRoutes
from beiran.agent.api.routes import api_routes
from beiran.agent.event_bus import EventBus
from beiran.api import models
from beiran.api.events import EVENT_NAMES, Event
from beiran.gossip.membership.member import Status
from beiran.http.messages import Route
from beiran.ids import digest_text, node_id_text
from beiran.mirror.backend import RepositoryName
from beiran.mirror.routes import mirror_routes
from beiran.oci.manifests import digest_of
from tests.agent.api.api_server import TAR_DIGEST, ServerThread
from tests.mirror.mirror_server import MirrorThread
from tests.pull.pull_stack_server import PullStackThread
from tests.pull.site import CONFIG, LAYER, MANIFEST, NAME, PEER, TAR, Registry
from tests.registry.origin_server import Asked, Reply
from tests.store.samples import changed, described, held, holding

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "reference" / "api.md").read_text()


def all_routes() -> list[Route]:
    """Those of an agent and its mirror; none of them is asked anything."""
    nothing: Any = None
    giving = PeerRoutes(nothing, nothing, nothing, nothing, is_member=nothing)
    pulls = PullRoutes(nothing, nothing, nothing, nothing, nothing, is_member=nothing, allowed=())
    described = [
        *api_routes(nothing, nothing, EventBus(), metrics=nothing, open_layer=nothing),
        *giving.routes(),
        *pulls.routes(),
        *mirror_routes(nothing),
    ]
    return [*described, openapi_route(described)]


DOCUMENT = openapi_document(all_routes())
schema = schemathesis.openapi.from_dict(DOCUMENT)


def digest(data: bytes) -> str:
    return digest_text(digest_of(data))


PULL_PART = "^/(pulls|prefetch|transfers|blobs|manifests|tags)|/manifest$"
api_schema = schema.exclude(path_regex="^/v2").exclude(path_regex=PULL_PART)
sharing_schema = schema.include(path_regex=PULL_PART).exclude(path="/pulls/run")
schema.config.checks.negative_data_rejection.expected_statuses.append("414")
mirror_schema = schema.include(path_regex="^/v2")


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


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorThread]:
    with MirrorThread() as mirror:
        for registry in ("docker.io", "quay.io"):
            mirror.backend.add_image(RepositoryName(registry, "library/app"), "1", "2")
        yield mirror


@mirror_schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_mirror_answers_as_its_document_says(case: Case[Any], mirror: MirrorThread) -> None:
    case.call_and_validate(base_url=mirror.url)


class ObligingRegistry(Registry):
    """Every tag that begins with a digit means an image, and no other."""

    async def __call__(self, asked: Asked) -> Reply:
        kind, what = asked.target.split("/")[-2:]
        if kind == "manifests" and what[0].isdigit():
            asked = replace(asked, target="/v2/any/manifests/1")
        return await super().__call__(asked)


@contextmanager
def no_other_registries() -> Iterator[None]:
    """Send requests for all registries to a closed port: no other host and no DNS is asked."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as closed:
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        for name in ("HTTPS_PROXY", "HTTP_PROXY"):
            patch.setenv(name, proxy)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PullStackThread]:
    folder = tmp_path_factory.mktemp("sharing")
    with (
        no_other_registries(),
        PullStackThread(folder, registry=ObligingRegistry(), allow_prefetch=("*",)) as sharing,
    ):
        sharing.call(sharing.site.pulls.pull, f"{NAME}:1")
        yield sharing


@sharing_schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_pull_part_answers_as_its_document_says(
    case: Case[Any], sharing: PullStackThread
) -> None:
    url = sharing.tcp_url if case.path == "/prefetch/here" else sharing.unix_url
    # 503 is what the document says of registries that cannot be reached.
    answer = case.call_and_validate(base_url=url, excluded_checks=[not_a_server_error])
    assert answer.status_code != 500


TAG = f"{NAME}:1"
PEER_UUID = node_id_text(PEER)


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status"),
    [
        ("GET", "/blobs/{digest}", {"path_parameters": {"digest": digest(LAYER)}}, 200),
        ("GET", "/manifests/{digest}", {"path_parameters": {"digest": digest(MANIFEST)}}, 200),
        ("GET", "/images/{id}/manifest", {"path_parameters": {"id": digest(CONFIG)}}, 200),
        ("POST", "/blobs/have", {"body": {"digests": [digest(LAYER), digest(TAR)]}}, 200),
        ("GET", "/tags", {"query": {"reference": TAG}}, 200),
        ("POST", "/pulls", {"query": {"reference": TAG}}, 200),
        ("POST", "/pulls", {"query": {"reference": TAG, "from": PEER_UUID}}, 404),
        ("GET", "/pulls/run", {"query": {"reference": TAG}}, 400),
        ("POST", "/prefetch", {"body": {"reference": TAG, "nodes": [PEER_UUID]}}, 200),
        ("POST", "/prefetch/here", {"query": {"reference": TAG}}, 200),
        ("GET", "/transfers", {}, 200),
    ],
)
def test_an_existing_thing_is_answered_as_the_document_says(
    sharing: PullStackThread, method: str, path: str, arguments: Any, status: int
) -> None:
    case = schema[path][method].Case(**arguments)
    url = sharing.tcp_url if path == "/prefetch/here" else sharing.unix_url
    assert case.call_and_validate(base_url=url).status_code == status


@api_schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_answers_as_its_document_says(case: Case[Any], api: ServerThread) -> None:
    if "node" in case.query and str(case.query.get("all")).lower() == "true":
        del case.query["all"]  # OpenAPI cannot say that two parameters exclude each other
    case.call_and_validate(base_url=api.server.url)


def test_an_agent_serves_the_document_of_its_routes(api: ServerThread) -> None:
    document = json.loads(api.server.ask("/openapi.json").body)
    for path, operations in document["paths"].items():
        assert operations == DOCUMENT["paths"][path]


def test_every_answer_and_parameter_of_the_document_is_described() -> None:
    for method, path, operation in _operations():
        for name, answer in operation["responses"].items():
            assert "$ref" in answer or answer["description"].endswith((".", ").")), (path, name)
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (method, path, parameter["name"])


def test_every_route_is_in_the_document_and_in_the_guide_and_no_other_is() -> None:
    routes = {
        (route.method, re.sub(r"\{(\w+):path\}", r"{\1}", route.pattern))
        for route in all_routes()
        if not route.pattern.endswith("{rest:path}")
    }
    documented = {(method, path) for method, path, _ in _operations()}
    assert documented == routes
    headings = re.findall(r"^### (GET|POST) (\S+)$", GUIDE, re.MULTILINE)
    assert sorted(headings) == sorted(routes)


def test_every_parameter_is_in_the_guide() -> None:
    for method, path, operation in _operations():
        section = GUIDE.split(f"### {method} {path}\n")[1].split("\n### ")[0]
        for parameter in operation.get("parameters", ()):
            if parameter["name"] not in ("digest", "Range") or path.startswith("/layers"):
                assert f"`{parameter['name']}" in section, (path, parameter["name"])


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in DOCUMENT["paths"].items():
        for method in ("get", "post"):
            if method in operations:
                yield method.upper(), path, operations[method]


@pytest.mark.parametrize(
    "model",
    [
        "Node",
        "Image",
        "Layer",
        "Info",
        "EngineInfo",
        "ErrorItem",
        "PullProgress",
        "PullDone",
        "PullFailed",
        "TagMeaning",
        "Transfer",
        "Prefetch",
        "Prefetching",
    ],
)
def test_every_field_is_in_the_guide_and_no_other_is(model: str) -> None:
    section = GUIDE.split(f"### {model}\n")[1].split("\n### ")[0].split("\n## ")[0]
    table = section.split("| field | |\n")[1].split("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    described = getattr(models, model)
    fields = [field.encode_name for field in msgspec.structs.fields(described)]
    if described.__struct_config__.tag is not None:
        fields.insert(0, described.__struct_config__.tag_field)
    assert documented == fields


def test_every_event_and_its_fields_are_in_the_guide() -> None:
    section = GUIDE.split("### Event\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    fields = [field.encode_name for field in msgspec.structs.fields(Event)]
    assert rows == [*fields, *EVENT_NAMES]


def test_every_code_of_an_error_is_in_the_guide() -> None:
    paths = (ROOT / "beiran").rglob("*.py")
    sources = [path.read_text() for path in paths if path.parent.name != "client"]
    raised = {
        code
        for source in sources
        for code in re.findall(
            r'(?:ApiError|HttpError|NotFound)\(\s*(?:\d+,\s*)?"([A-Z_]+)"'
            r'|(?:code|CODE) ?= ?"([A-Z_]+)"',
            source,
        )
        for code in code
        if code
    }
    assert raised
    section = GUIDE.split("## Errors\n")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    documented = {code for row in rows for code in re.findall(r"`([A-Z_]+)`", row)}
    assert raised <= documented


def test_the_guides_examples_are_what_the_server_answers(
    api: ServerThread, sharing: PullStackThread
) -> None:
    """Every ``curl`` of the guide works; its UUIDs and digests stand for those of the test."""
    examples = re.findall(r"^\$ curl (.*)$", GUIDE, re.MULTILINE)
    assert len(examples) > 5
    for example in examples:
        if "localhost:8880" in example:
            continue  # the mirror has another listener
        if "/transfers" in example:
            with urllib.request.urlopen(f"{sharing.tcp_url}/transfers", timeout=30) as of_pulls:
                assert of_pulls.status == 200
            continue
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
