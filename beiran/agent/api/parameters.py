"""Reading a request's parameters: what is not right is said, and what would be."""

from collections.abc import Sequence

from msgspec import Struct

from beiran.errors import BadRequest
from beiran.http.messages import Request
from beiran.ids import Digest, NodeId, parse_digest, parse_node_id


class Parameters(Struct, frozen=True):
    """What follows the ``?`` of a listing."""

    all: bool = False
    node: NodeId | None = None
    follow: bool = False


def read_parameters(request: Request, names: Sequence[str], *, websocket: bool) -> Parameters:
    """Read the parameters of a path that takes ``names`` (of all, node, follow).

    Raises: BadRequest for one that the path does not take, that comes twice or cannot be read,
    for ``all`` together with ``node``, and for ``follow`` where no WebSocket is wanted.
    """
    for name, values in request.query.items():
        if name not in names:
            takes = f"it takes {', '.join(names)}" if names else "it takes none"
            raise BadRequest(f"{request.path} has no parameter {name!r}; {takes}")
        if len(values) > 1:
            raise BadRequest(f"parameter {name} is given {len(values)} times; once is right")
    parameters = Parameters(
        all=_boolean(request, "all"),
        node=_node(request),
        follow=_boolean(request, "follow"),
    )
    if parameters.all and parameters.node is not None:
        raise BadRequest("all=true and node=UUID exclude each other; give one of them")
    if parameters.follow and not websocket:
        raise BadRequest("follow=true needs a WebSocket; over HTTP leave it out")
    return parameters


def read_node_id(text: str) -> NodeId:
    """A node's UUID in a path or a parameter. Raises: BadRequest."""
    try:
        return parse_node_id(text)
    except ValueError:
        raise BadRequest(
            f"not a node's UUID: {text!r}; right is xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
        ) from None


def read_digest(text: str) -> Digest:
    """A digest in a path. Raises: BadRequest."""
    try:
        return parse_digest(text)
    except ValueError:
        raise BadRequest(
            f"not a digest: {text!r}; right is sha256: and 64 hexadecimal digits in lower case"
        ) from None


def _node(request: Request) -> NodeId | None:
    values = request.query.get("node")
    return read_node_id(values[0]) if values else None


def _boolean(request: Request, name: str) -> bool:
    values = request.query.get(name, ["false"])
    if values[0] not in ("true", "false"):
        raise BadRequest(f"{name}={values[0]!r} is neither {name}=true nor {name}=false")
    return values[0] == "true"
