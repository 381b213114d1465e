"""The OpenAPI document of the API, made from its models: ``python -m beiran.agent.openapi``.

What it prints is committed as ``beiran/openapi.json``, which is what an agent serves; a test holds
the two, and the running server, together. OpenAPI knows no WebSockets: those are told in words.
"""

import json
import sys
from typing import Any, Final

import msgspec

from beiran import __version__
from beiran.agent.layer_payload import LAYER_MEDIA_TYPE
from beiran.events import Event
from beiran.models import Change, Errors, Image, Info, Layer, Node

Json = dict[str, Any]

JSON: Final = "application/json"
UUID_PATTERN: Final = (
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
)
REFERENCE_PATTERN: Final = "^[A-Za-z0-9._:/@-]+$"
DIGEST_PATTERN: Final = "^sha256:[0-9a-f]{64}$"

DESCRIPTION: Final = """\
What an agent tells of the nodes of its cluster and of the images and layers they hold.

Every path but `/metrics` and `/openapi.json` also answers a WebSocket: a message (JSON text) for
each row, or one with the whole answer. With `follow=true`, which only a WebSocket takes, `/nodes`,
`/images`, `/layers` and one of each go on: `{"change": "listed"}` ends the rows, and then comes a
`Change` whenever a row is added, changed or removed; `/events` tells events as they happen.
"""


def openapi_document() -> Json:
    """The document, as JSON has it."""
    _, schemas = msgspec.json.schema_components(
        (Node, Image, Layer, Info, Event, Change, Errors),
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
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "responses": {
                "BadRequest": _error("A parameter or the path cannot be read; says what is right."),
                "NotFound": _error("There is no such node, image or layer."),
            },
        },
    }


def _paths() -> Json:
    whose = [_all("what all online nodes hold"), _node()]
    return {
        "/info": _get("This node, and how it is doing", _ok(_ref("Info"))),
        "/nodes": _get(
            "The online nodes, this one included, by name",
            _ok(_list("nodes", "Node")),
            [_all("all known nodes, the offline ones too")],
        ),
        "/nodes/{uuid}": _get(
            "One node, online or not",
            _ok(_ref("Node")) | _not_found(),
            [_path("uuid", {"type": "string", "format": "uuid", "pattern": UUID_PATTERN})],
        ),
        "/images": _get(
            "The images that this node holds, by first tag, then the newest",
            _ok(_list("images", "Image")) | _not_found(),
            whose,
        ),
        "/images/{id}": _get(
            "One image, by its digest, a prefix of it that no other has, a tag or NAME@DIGEST",
            _ok(_ref("Image")) | _not_found(),
            [_path("id", {"type": "string", "pattern": REFERENCE_PATTERN})],
        ),
        "/layers": _get(
            "The layers of the images that this node holds, the largest first",
            _ok(_list("layers", "Layer")) | _not_found(),
            whose,
        ),
        "/layers/{digest}": _layer(),
        "/events": _get("The last events, the oldest first", _ok(_list("events", "Event"))),
        "/metrics": _get(
            "Numbers for Prometheus",
            {"200": _content("They are.", "text/plain", {"type": "string"})},
        ),
        "/healthz": _get(
            "Whether the agent can do its work",
            _ok(_object(status={"const": "ok"}))
            | {"503": _error("It cannot: each error says why.")},
        ),
        "/openapi.json": _get("This document", _ok({"type": "object"})),
    }


def _layer() -> Json:
    tar: Json = {LAYER_MEDIA_TYPE: {}}
    described = tar | {JSON: {"schema": _ref("Layer")}}
    etag = {"ETag": {"schema": {"type": "string"}}, "Accept-Ranges": {"schema": {"const": "bytes"}}}
    content_range = {"Content-Range": {"schema": {"type": "string"}}}
    responses: Json = {
        "200": {
            "description": "The tar, all of it; with `Accept: application/json` what is known of"
            " the layer (without those headers).",
            "content": described,
        },
        "206": {
            "description": "The part that `Range` asked for.",
            "headers": etag | content_range,
            "content": tar,
        },
        "304": {"description": "`If-None-Match` named it."},
        "416": _error("`Range` lies outside.") | {"headers": content_range},
        "500": _error("What is on disk is not that layer (`LAYER_DAMAGED`)."),
        "503": _error("The engine does not answer (`ENGINE_UNAVAILABLE`)."),
    }
    return _get(
        "The uncompressed tar of a layer that this node holds",
        responses | _not_found(),
        [
            _path("digest", {"type": "string", "pattern": DIGEST_PATTERN}),
            {
                "name": "Range",
                "in": "header",
                "description": "One range of bytes; several are answered with all of it.",
                "schema": {"type": "string"},
            },
        ],
    )


def _get(summary: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    bad = {"400": {"$ref": "#/components/responses/BadRequest"}}
    operation: Json = {"summary": summary, "responses": dict(sorted((responses | bad).items()))}
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _all(what: str) -> Json:
    return {
        "name": "all",
        "in": "query",
        "description": f"`true`: {what}.",
        "schema": {"type": "boolean", "default": False},
    }


def _node() -> Json:
    return {
        "name": "node",
        "in": "query",
        "description": "What the node with this UUID holds; when it is offline, what it last was"
        " known to hold. Not together with `all=true`.",
        "schema": {"type": "string", "format": "uuid", "pattern": UUID_PATTERN},
    }


def _path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _ok(schema: Json) -> Json:
    return {"200": _content("It is.", JSON, schema)}


def _not_found() -> Json:
    return {"404": {"$ref": "#/components/responses/NotFound"}}


def _error(description: str) -> Json:
    return _content(description, JSON, _ref("Errors"))


def _content(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _list(name: str, model: str) -> Json:
    return _object(**{name: {"type": "array", "items": _ref(model)}})


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ref(model: str) -> Json:
    return {"$ref": f"#/components/schemas/{model}"}


def openapi_text() -> str:
    """The document as it is committed."""
    return json.dumps(openapi_document(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
