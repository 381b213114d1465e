"""``beiran layer``: list layers and the nodes that hold them."""

from cyclopts import App

from beiran_cli.names import NodeNames, short_digest
from beiran_cli.options import DEFAULTS, OWN_HOST, Common, Scope
from beiran_cli.table import Names, print_json, print_table
from beiran_cli.units import human_size

app = App(name="layer")


@app.command(name="list")
def list_layers(*, scope: Scope = OWN_HOST, common: Common = DEFAULTS) -> None:
    """List the layers of this host, of all nodes, or of one."""
    scope.check()
    with common.connect() as client:
        known, wanted = scope.read(client, names=not common.as_json)
        layers = client.get_layers(**wanted)
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
