"""The OpenAPI document, made from the descriptions that routes carry (``http/description.py``).

OpenAPI does not describe WebSockets: ``DESCRIPTION`` does, and the models of their messages are in
the document's components.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from beiran import __version__
from beiran.agent.api.parameters import read_parameters
from beiran.api.models import Change, PullFailed, PullProgress
from beiran.http.description import JSON, NOT_FOUND, Answer, Parameter, Schema, error, json_answer
from beiran.http.messages import Request, Response, Route

Json = dict[str, Any]

MIRROR_URL: Final = "http://127.0.0.1:8880"
WEBSOCKET_MODELS: Final = (Change, PullProgress, PullFailed)
BAD_REQUEST: Final = error(400, "A parameter or the path cannot be read. The error names it.")
TOO_LONG: Final = error(414, "The path and its parameters are too long.")
SHARED_ANSWERS: Final = {"BadRequest": BAD_REQUEST, "NotFound": NOT_FOUND}
DESCRIPTION: Final = """\
The nodes of a cluster of beiran agents, the images and layers that they hold, and pulls.

`/v2/…` is the mirror, on a listener of its own: the pull part of the OCI distribution
specification. `/pulls` and `/prefetch` are answered on the agent's unix socket only. Paths with the
tag `agents` are for other agents; on TCP only members of the cluster may use them.

Every other path except `/metrics` and `/openapi.json` also answers a WebSocket: one message (JSON
text) for each row, or one message with the whole answer. With `follow=true`, which only a WebSocket
takes, `/nodes`, `/images`, `/layers`, one of each, and `/transfers` continue after the rows:
`{"change": "listed"}` ends the rows, and then a `Change` follows for each row that is added,
changed or removed. `/events` with `follow=true` sends each event as it happens. `/pulls/run` is
`/pulls` by WebSocket: it sends a `PullProgress` for a layer whenever the layer's progress changes,
and at the end a `PullDone` or a `PullFailed`.
"""


def openapi_route(described: Sequence[Route]) -> Route:
    """The route that serves the document of ``described`` and of itself.

    The document is made at the first request, since most agents are never asked for it.
    """

    @cache
    def document() -> bytes:
        return msgspec.json.encode(openapi_document([*described, route]))

    async def handler(request: Request) -> Response:
        read_parameters(request, (), websocket=False)
        return Response(headers=[("Content-Type", JSON)], body=document())

    route = Route(
        method="GET",
        pattern="/openapi.json",
        handler=handler,
        summary="This document",
        answers=(json_answer("This OpenAPI 3.1 document.", {"type": "object"}),),
    )
    return route


def openapi_document(routes: Sequence[Route]) -> Json:
    """The document of those of ``routes`` that have a summary, as JSON has it."""
    models: set[type] = set(WEBSOCKET_MODELS)
    paths: Json = {}
    for route in routes:
        if not route.summary:
            continue
        path = paths.setdefault(route.pattern.replace(":path}", "}"), {})
        path[route.method.lower()] = _operation(route, models)
        if route.listeners == ("mirror",):
            path["servers"] = [{"url": MIRROR_URL, "description": "The mirror, on loopback."}]
    responses = {name: _answer(answer, models) for name, answer in SHARED_ANSWERS.items()}
    _, schemas = msgspec.json.schema_components(
        sorted(models, key=lambda model: model.__name__),
        ref_template="#/components/schemas/{name}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "beiran",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:8888"}],
        "paths": paths,
        "components": {"schemas": schemas, "responses": responses},
    }


def _operation(route: Route, models: set[type]) -> Json:
    answers = [*route.answers, BAD_REQUEST]
    if any(parameter.place == "query" for parameter in route.parameters):
        answers.append(TOO_LONG)
    answers.sort(key=lambda answer: answer.status)
    operation: Json = {
        "summary": route.summary,
        "responses": {str(answer.status): _response(answer, models) for answer in answers},
    }
    if route.parameters:
        operation["parameters"] = [_parameter(item, models) for item in route.parameters]
    if route.request_body is not None:
        content = {JSON: {"schema": _resolved(route.request_body, models)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.tags:
        operation["tags"] = list(route.tags)
    return operation


def _response(answer: Answer, models: set[type]) -> Json:
    for name, shared in SHARED_ANSWERS.items():
        if answer is shared:
            return {"$ref": f"#/components/responses/{name}"}
    return _answer(answer, models)


def _answer(answer: Answer, models: set[type]) -> Json:
    response: Json = {"description": answer.description}
    if answer.headers:
        headers = answer.headers.items()
        response["headers"] = {name: {"schema": _resolved(of, models)} for name, of in headers}
    if answer.content:
        content = answer.content.items()
        response["content"] = {
            media_type: {"schema": _resolved(schema, models)} if schema else {}
            for media_type, schema in content
        }
    return response


def _parameter(parameter: Parameter, models: set[type]) -> Json:
    described = {"name": parameter.name, "in": parameter.place}
    if parameter.description:
        described["description"] = parameter.description
    required: Json = {"required": True} if parameter.required else {}
    return described | required | {"schema": _resolved(parameter.schema, models)}


def _resolved(schema: Schema, models: set[type]) -> Any:
    """``schema`` with references in place of models, which are added to ``models``."""
    if isinstance(schema, type):
        models.add(schema)
        return {"$ref": f"#/components/schemas/{schema.__name__}"}
    if isinstance(schema, Mapping):
        return {name: _resolved(inner, models) for name, inner in schema.items()}
    return [_resolved(inner, models) for inner in schema] if isinstance(schema, list) else schema
