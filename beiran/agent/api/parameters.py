"""Read a request's parameters. An error names the parameter and the values that it takes."""

from collections.abc import Sequence

from msgspec import Struct

from beiran.errors import BadRequest
from beiran.http.messages import Request
from beiran.ids import Digest, NodeId, parse_digest, parse_node_id


class Parameters(Struct, frozen=True):
    """The query parameters of a listing."""

    all: bool = False
    node: NodeId | None = None
    follow: bool = False


def read_parameters(request: Request, names: Sequence[str], *, websocket: bool) -> Parameters:
    """Read the parameters of a path that takes ``names`` (of all, node, follow).

    Raises: BadRequest for one that the path does not take, that comes twice or cannot be read,
    for ``all`` together with ``node``, and for ``follow`` where no WebSocket is wanted.
    """
    check_names(request, names)
    parameters = Parameters(
        all=read_boolean(request, "all"),
        node=_node(request),
        follow=read_boolean(request, "follow"),
    )
    if parameters.all and parameters.node is not None:
        raise BadRequest("all=true and node=UUID exclude each other; give only one of them")
    if parameters.follow and not websocket:
        raise BadRequest("follow=true needs a WebSocket; leave it out over HTTP")
    return parameters


def check_names(request: Request, names: Sequence[str]) -> None:
    """Raises: BadRequest for a parameter that is not one of ``names``, or is given twice."""
    for name, values in request.query.items():
        if name not in names:
            takes = f"it takes {', '.join(names)}" if names else "it takes none"
            raise BadRequest(f"{request.path} has no parameter {name!r}; {takes}")
        if len(values) > 1:
            raise BadRequest(f"parameter {name} is given {len(values)} times; give it once")


def read_boolean(request: Request, name: str) -> bool:
    """A parameter that is ``true`` or ``false``; false where it is not given."""
    values = request.query.get(name, ["false"])
    if values[0] not in ("true", "false"):
        raise BadRequest(f"{name}={values[0]!r} is neither {name}=true nor {name}=false")
    return values[0] == "true"


def read_node_id(text: str) -> NodeId:
    """A node's UUID in a path or a parameter. Raises: BadRequest."""
    try:
        return parse_node_id(text)
    except ValueError:
        raise BadRequest(
            f"{text!r} is not a node's UUID, such as 8c1ecd5f-6a2b-4d0e-9f0c-2f4f0d8c9a11"
        ) from None


def read_digest(text: str) -> Digest:
    """A digest in a path. Raises: BadRequest."""
    try:
        return parse_digest(text)
    except ValueError:
        raise BadRequest(
            f"{text!r} is not a digest: sha256: and 64 hexadecimal digits in lower case"
        ) from None


def _node(request: Request) -> NodeId | None:
    values = request.query.get("node")
    return read_node_id(values[0]) if values else None
