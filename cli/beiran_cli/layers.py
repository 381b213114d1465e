"""``beiran layer``: list layers and the nodes that hold them."""

from typing import Annotated

from cyclopts import App, Parameter

from beiran_cli.exits import WrongUsage
from beiran_cli.names import NodeNames, find_node, short_digest
from beiran_cli.options import DEFAULTS, Common
from beiran_cli.table import Names, print_json, print_table
from beiran_cli.units import human_size

app = App(name="layer")


@app.command(name="list")
def list_layers(
    *,
    all: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    node: Annotated[str | None, Parameter(metavar="NODE")] = None,
    common: Common = DEFAULTS,
) -> None:
    """List the layers of this host, of all nodes, or of one.

    Parameters
    ----------
    all
        The layers of all nodes.
    node
        The layers of this node (a UUID, the beginning of one, or a name).
    """
    if all and node is not None:
        raise WrongUsage("give --all or --node, not both")
    with common.connect() as client:
        known = client.get_known_nodes() if node is not None or not common.as_json else []
        uuid = None if node is None else find_node(node, known).uuid
        layers = client.get_layers(all=all, node=uuid)
    if common.as_json:
        print_json(layers)
        return
    names = NodeNames(known)
    print_table(
        ("LAYER", "SIZE", "IMAGES", "NODES"),
        [
            (
                short_digest(layer.digest),
                human_size(layer.size_bytes),
                str(len(layer.images)),
                Names(names.of(layer.available_at)),
            )
            for layer in sorted(layers, key=lambda layer: layer.digest)
        ],
    )
