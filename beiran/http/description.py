"""How a route is described: its parameters, and what it answers with each status.

A route carries its description (``Route.summary`` and the fields after it), and the agent makes its
OpenAPI document from the routes it serves. Schemas are JSON Schema, with a model's class wherever
the model is meant.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

from beiran.api.models import Errors

Schema = Mapping[str, Any] | type
"""JSON Schema, or a model; models may also stand anywhere within."""

JSON: Final = "application/json"
ANY_BYTES: Final[Schema] = {}
STRING: Final[Schema] = {"type": "string"}
UUID: Final[Schema] = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
PLATFORM: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9]{1,20}/[a-z0-9]{1,20}$"}

_LABEL: Final = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_COMPONENT: Final = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
# A registry; or the first of several components of a repository, which then contains no dot.
_FIRST: Final = f"({_LABEL}([.]{_LABEL})*(:[1-9][0-9]{{0,3}})?|[a-z0-9]+((_|__|-+)[a-z0-9]+)*)"
# As ``references.parse_reference`` reads it, without IPv6 registries and ports above 9999.
IMAGE_REFERENCE: Final[Schema] = {
    "type": "string",
    "pattern": f"^({_COMPONENT}|{_FIRST}(/{_COMPONENT})+)"
    "(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$",
    "maxLength": 250,
}


class Parameter(Struct, frozen=True):
    """A parameter of a route. Those in the path are always required."""

    name: str
    schema: Schema
    description: str = ""
    place: Literal["path", "query", "header"] = "query"
    required: bool = False


class Answer(Struct, frozen=True):
    """What a route answers with one status.

    Attributes:
      content: the schema of the body by media type.
    """

    status: int
    description: str
    content: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)


RANGE: Final = Parameter(
    "Range", STRING, "One range of bytes. Several ranges are answered with all bytes.", "header"
)
NOT_FOUND: Final = Answer(404, "No such node, image or layer is known.", {JSON: Errors})


def path_parameter(name: str, schema: Schema, description: str) -> Parameter:
    """A ``{name}`` of the route's pattern."""
    return Parameter(name, schema, description, "path", required=True)


def json_answer(description: str, schema: Schema) -> Answer:
    """200 with JSON."""
    return Answer(200, description, {JSON: schema})


def error(status: int, description: str) -> Answer:
    """An error, with the body that all errors have."""
    return Answer(status, description, {JSON: Errors})


def bytes_answers(
    media_type: str, what: str, headers: Mapping[str, Schema] | None = None
) -> tuple[Answer, ...]:
    """What answers requests for bytes, whole or with ``Range``.

    Args:
      headers: of the 200 and the 206.
    """
    headers = headers or {}
    range_header: Mapping[str, Schema] = {"Content-Range": STRING}
    content: Mapping[str, Schema] = {media_type: ANY_BYTES}
    return (
        Answer(200, what, content, headers),
        Answer(206, "The bytes that `Range` asks for.", content, {**headers, **range_header}),
        Answer(416, "`Range` lies outside of the bytes.", {JSON: Errors}, range_header),
    )


def array_of(items: Schema) -> Schema:
    """A JSON array."""
    return {"type": "array", "items": items}


def object_of(**properties: Schema) -> Schema:
    """A JSON object with these properties, all of them required."""
    return {"type": "object", "properties": properties, "required": list(properties)}
