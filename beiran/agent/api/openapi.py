"""The OpenAPI document of the API, made from its models: ``python -m beiran.agent.api.openapi``.

What it prints is committed as ``openapi.json`` beside it, which is what an agent serves; a test
holds the two, and the running server, together. OpenAPI knows no WebSockets: words describe those.
"""

import json
import sys
from typing import Any, Final

import msgspec

from beiran import __version__
from beiran.agent.api.layer_tar import LAYER_MEDIA_TYPE
from beiran.api.events import Event
from beiran.api.models import (
    Change,
    Errors,
    Image,
    Info,
    Layer,
    Node,
    Prefetching,
    PullDone,
    PullFailed,
    PullProgress,
    TagMeaning,
    Transfer,
)
from beiran.mirror.routes import BLOB_MEDIA_TYPE, SOURCE_HEADER
from beiran.oci.manifests import MANIFEST_TYPES
from beiran.pull.peer_lookup import HAVE_DIGESTS_MAX

Json = dict[str, Any]

JSON: Final = "application/json"
UUID_PATTERN: Final = (
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
)
REFERENCE_PATTERN: Final = "^[A-Za-z0-9._:/@-]+$"
DIGEST_PATTERN: Final = "^sha256:[0-9a-f]{64}$"
MANIFEST_REFERENCE_PATTERN: Final = "^(sha256:[0-9a-f]{64}|[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})$"
REPOSITORY_PATTERN: Final = "^[a-z0-9]{1,30}(-[a-z0-9]{1,30}){0,3}$"
"""The simple ones: a path of several parts cannot be said in OpenAPI."""
REGISTRY_PATTERN: Final = "^[a-z0-9]{1,20}([.][a-z0-9]{1,20}){1,3}(:[1-9][0-9]{0,3})?$"
MIRROR_URL: Final = "http://127.0.0.1:8880"
STRING: Final[Json] = {"type": "string"}
UUID: Final[Json] = {"type": "string", "format": "uuid", "pattern": UUID_PATTERN}
DIGEST: Final[Json] = {"type": "string", "pattern": DIGEST_PATTERN}
PLATFORM: Final[Json] = {"type": "string", "pattern": "^[a-z0-9]{1,20}/[a-z0-9]{1,20}$"}
_LABEL: Final = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_COMPONENT: Final = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_FIRST: Final = f"({_LABEL}([.]{_LABEL})*(:[1-9][0-9]{{0,3}})?|[a-z0-9]+((_|__|-+)[a-z0-9]+)*)"
"""A registry; or the first of several components, which has no dot then."""
IMAGE_REFERENCE: Final[Json] = {
    "type": "string",
    "pattern": f"^({_COMPONENT}|{_FIRST}(/{_COMPONENT})+)"
    "(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$",
    "maxLength": 250,
}
"""As ``references.parse_reference`` reads it, but for the rare: IPv6, the highest ports."""
TAG_REFERENCE: Final[Json] = {"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,200}$"}

DESCRIPTION: Final = """\
What an agent tells of the nodes of its cluster and of the images and layers they hold.

`/v2/…` is the mirror, at a door of its own: the pull part of the OCI distribution specification.
`/pulls` and `/prefetch` are answered on the agent's unix socket only; what is tagged `agents` is
for agents among themselves, and on TCP for members of the cluster only.

Every other path but `/metrics` and `/openapi.json` also answers a WebSocket: a message (JSON text)
for each row, or one with the whole answer. With `follow=true`, which only a WebSocket takes,
`/nodes`, `/images`, `/layers`, one of each, and `/transfers` go on: `{"change": "listed"}` ends the
rows, and then comes a `Change` whenever a row is added, changed or removed; `/events` tells events
as they happen. `/pulls/run` is `/pulls` by WebSocket: a `PullProgress` for each layer, again and
again, and in the end a `PullDone` or a `PullFailed`.
"""


def openapi_document() -> Json:
    """The document, as JSON has it."""
    _, schemas = msgspec.json.schema_components(
        (
            *(Node, Image, Layer, Info, Event, Change, Errors, Transfer, TagMeaning),
            *(PullProgress, PullDone, PullFailed, Prefetching),
        ),
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
    at_mirror: Json = {"servers": [{"url": MIRROR_URL, "description": "the mirror, on loopback"}]}
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
        "/transfers": _get(
            "The blobs that are on their way to this node or from it",
            _ok(_list("transfers", "Transfer")),
        ),
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
        **_pull_paths(),
        **_agents_paths(),
    } | {path: at_mirror | item for path, item in _mirror_paths().items()}


def _pull_paths() -> Json:
    """What begins pulls."""
    pull = [
        _query("reference", IMAGE_REFERENCE, "The image, of any registry.", required=True),
        _query("from", UUID, "What the node with this UUID has under that name."),
        _query("platform", PLATFORM, "Such as `linux/arm64`; the host's own by default."),
    ]
    failed = {
        "403": _error("The registry does not allow it."),
        "404": _error("There is no such image."),
        "429": _error("The registry answers no more for the moment."),
        "500": _error("What came, or what is on disk, is damaged."),
        "502": _error("The engine refused it, or what the registry answers cannot be used."),
        "503": _error("It cannot be had now."),
    }
    wanted = _object(reference=IMAGE_REFERENCE, nodes={"anyOf": [_array(UUID), {"const": "all"}]})
    wanted["properties"]["platform"] = {"anyOf": [PLATFORM, {"type": "null"}]}
    return {
        "/pulls": _post(
            "Pull an image into this host's engine", _ok(_ref("PullDone")) | failed, pull
        ),
        "/pulls/run": _get("The same by WebSocket, with progress; over HTTP it is 400", {}, pull),
        "/prefetch": _post(
            "Have other nodes pull an image",
            _ok(_list("nodes", "Prefetching")),
            body=wanted,
        ),
    }


def _agents_paths() -> Json:
    """What agents ask each other."""
    digest = _path("digest", {"type": "string", "pattern": DIGEST_PATTERN})
    manifests: Json = {
        "description": "The manifest or index, exactly.",
        "content": {media_type: {} for media_type in MANIFEST_TYPES},
    }
    strangers = {"403": _error("Whoever asks is no member of the cluster.")}
    damaged = {"500": _error("What is on disk is damaged.")}
    away = {"503": _error("The engine does not answer, or too many ask at once.")}
    question = _object(
        digests={"type": "array", "items": DIGEST, "maxItems": HAVE_DIGESTS_MAX},
    )
    sizes = {"type": "object", "additionalProperties": {"type": "integer"}}
    paths = {
        "/blobs/{digest}": _get(
            "A blob, whole or in part: from the cache, in flight, or from the engine",
            _bytes(BLOB_MEDIA_TYPE, "The blob.", {}) | strangers | _not_found() | damaged | away,
            [digest, _range()],
        ),
        "/blobs/have": _post(
            "Which of these blobs this node can give, and their sizes",
            _ok(_object(blobs=sizes))
            | strangers
            | {"413": _error("They are too many for one question.")},
            body=question,
        ),
        "/manifests/{digest}": _get(
            "A manifest or index that this node has",
            {"200": manifests} | strangers | _not_found() | damaged,
            [digest],
        ),
        "/images/{id}/manifest": _get(
            "The manifest by which this node can give the image with this config",
            {"200": manifests} | strangers | _not_found() | damaged | away,
            [_path("id", {"type": "string", "pattern": DIGEST_PATTERN})],
        ),
        "/tags": _get(
            "What a tag meant when this node last heard it from its registry",
            _ok(_ref("TagMeaning")) | strangers | _not_found(),
            [_query("reference", TAG_REFERENCE, "The tag, whole.", required=True)],
        ),
        "/prefetch/here": _post(
            "Have this node pull an image, as far as its operator allows it",
            _ok(_object(state={"const": "started"}))
            | {
                "403": _error("The operator of this node does not allow it."),
                "503": _error("Too many are under way (`BUSY`)."),
            },
            [
                _query("reference", IMAGE_REFERENCE, "The image.", required=True),
                _query("platform", PLATFORM, "Such as `linux/arm64`."),
            ],
        ),
    }
    for operations in paths.values():
        for operation in operations.values():
            operation["tags"] = ["agents"]
    return paths


def _mirror_paths() -> Json:
    """The pull part of the OCI distribution specification."""
    name = _path("name", {"type": "string", "pattern": REPOSITORY_PATTERN})
    namespace = {
        "name": "ns",
        "in": "query",
        "description": "The registry, where it is not in the path; `docker.io` otherwise.",
        "schema": {"type": "string", "pattern": REGISTRY_PATTERN},
    }
    text: Json = {"schema": {"type": "string"}}
    digested = {"Docker-Content-Digest": text, "ETag": text}
    says = {SOURCE_HEADER: text, "Warning": text}
    unchanged: Json = {"304": {"description": "`If-None-Match` named it.", "headers": digested}}
    version: Json = {"200": _content("It is a registry.", JSON, {"type": "object"})}
    manifests: Json = {
        "description": "The manifest or index, exactly.",
        "headers": digested | says,
        "content": {media_type: {} for media_type in MANIFEST_TYPES},
    }
    reference = {"type": "string", "pattern": MANIFEST_REFERENCE_PATTERN}
    blob = _bytes(BLOB_MEDIA_TYPE, "The blob.", digested)
    tags = _content("Some of its tags, sorted.", JSON, _object(name=STRING, tags=_array(STRING)))
    page = [
        {"name": "n", "in": "query", "schema": {"type": "integer", "minimum": 0}},
        {"name": "last", "in": "query", "schema": STRING},
    ]
    return {
        "/v2": _get("That this is a registry", version),
        "/v2/": _get("That this is a registry", version),
        "/v2/{name}/manifests/{reference}": _get(
            "A manifest or index, by tag or digest",
            {"200": manifests} | unchanged | _mirror_errors(),
            [name, _path("reference", reference), namespace],
        ),
        "/v2/{name}/blobs/{digest}": _get(
            "A blob, whole or in part",
            blob | unchanged | _mirror_errors(),
            [
                name,
                _path("digest", {"type": "string", "pattern": DIGEST_PATTERN}),
                namespace,
                _range(),
            ],
        ),
        "/v2/{name}/tags/list": _get(
            "Tags of a repository, a page of them",
            {"200": tags | {"headers": says | {"Link": text}}} | _mirror_errors(),
            [name, *page, namespace],
        ),
    }


def _mirror_errors() -> Json:
    return _not_found() | {
        "403": _error("The origin, or the operator, does not allow it."),
        "429": _error("The origin answers no more for the moment."),
        "502": _error("The origin's answer cannot be used."),
        "503": _error("Nobody can be reached who has it, or not in time."),
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
            _range(),
        ],
    )


def _range() -> Json:
    return {
        "name": "Range",
        "in": "header",
        "description": "One range of bytes; several are answered with all of it.",
        "schema": STRING,
    }


def _bytes(media_type: str, what: str, headers: Json) -> Json:
    """Bytes that answer to ``Range``."""
    content: Json = {media_type: {}}
    content_range: Json = {"Content-Range": {"schema": STRING}}
    return {
        "200": {"description": what, "headers": headers, "content": content},
        "206": {
            "description": "The part that `Range` asked for.",
            "headers": headers | content_range,
            "content": content,
        },
        "416": _error("`Range` lies outside.") | {"headers": content_range},
    }


def _get(summary: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    bad: Json = {"400": {"$ref": "#/components/responses/BadRequest"}}
    if any(parameter["in"] == "query" for parameter in parameters or ()):
        bad["414"] = _error("The path and its parameters are too long.")
    operation: Json = {"summary": summary, "responses": dict(sorted((responses | bad).items()))}
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _post(
    summary: str,
    responses: Json,
    parameters: list[Json] | None = None,
    *,
    body: Json | None = None,
) -> Json:
    operation: Json = _get(summary, responses, parameters)["get"]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    return {"post": operation}


def _query(name: str, schema: Json, description: str, *, required: bool = False) -> Json:
    said = {"name": name, "in": "query", "description": description, "schema": schema}
    return said | ({"required": True} if required else {})


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


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ref(model: str) -> Json:
    return {"$ref": f"#/components/schemas/{model}"}


def openapi_text() -> str:
    """The document as it is committed."""
    return json.dumps(openapi_document(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
