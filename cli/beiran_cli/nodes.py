"""``beiran node``: list and show nodes."""

from collections.abc import Iterable
from typing import Annotated

from cyclopts import App, Parameter

from beiran.api.models import EngineInfo, Node
from beiran_cli.info import address, engine_words
from beiran_cli.names import find_node, short_uuid
from beiran_cli.options import DEFAULTS, Common
from beiran_cli.table import Columns, Rows, print_fields, print_json, print_table
from beiran_cli.units import human_age

app = App(name="node")


@app.command(name="list")
def list_nodes(
    *,
    all: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    common: Common = DEFAULTS,
) -> None:
    """List the nodes that are online, or all known ones.

    Parameters
    ----------
    all
        Offline nodes as well.
    """
    with common.connect() as client:
        nodes = client.get_known_nodes() if all else client.get_online_nodes()
    if common.as_json:
        print_json(nodes)
        return
    print_table(*node_table(nodes))


@app.command(name="show")
def show_node(node: str, /, *, common: Common = DEFAULTS) -> None:
    """Show one node.

    Parameters
    ----------
    node
        Its UUID, the beginning of it, or its name.
    """
    with common.connect() as client:
        found = find_node(node, client.get_known_nodes())
        # One node in the API's own form, which --output json prints.
        answer = client.get_node(found.uuid)
    if common.as_json:
        print_json(answer)
        return
    print_fields(
        [
            ("Node", f"{answer.name} ({answer.uuid})"),
            ("Address", address(answer.address, answer.port)),
            (
                "State",
                f"{_state(answer)}, generation {answer.generation}, "
                f"incarnation {answer.incarnation}",
            ),
            ("Seen", _seen(answer)),
            ("Version", answer.version or "unknown"),
            ("Engine", engine_words(answer.engine)),
        ]
    )


def node_table(nodes: Iterable[Node]) -> tuple[Columns, Rows]:
    """The table of ``beiran node list``."""
    return (
        ("ID", "NAME", "ADDRESS", "STATE", "SEEN", "ENGINE"),
        [
            (
                short_uuid(node.uuid),
                node.name,
                address(node.address, node.port),
                _state(node),
                _seen(node),
                _engine(node.engine),
            )
            for node in sorted(nodes, key=lambda node: (node.name, node.uuid))
        ],
    )


def _seen(node: Node) -> str:
    """When a node last answered. A living one answers probes all the time: ``now``."""
    return "now" if node.state == "alive" else human_age(node.last_seen_at)


def _engine(engine: EngineInfo | None) -> str:
    """An engine in a table: without the folder of a layout, which may be long."""
    if engine is not None and engine.kind == "oci":
        return "oci" if engine.up else "oci (down)"
    return engine_words(engine)


def _state(node: Node) -> str:
    """``online`` or ``offline``, with the member's state where that says more."""
    state = "online" if node.online else "offline"
    return f"{state} ({node.state})" if node.state in ("suspect", "left") else state
