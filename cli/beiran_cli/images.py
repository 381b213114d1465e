"""``beiran image``: list, show, pull and prefetch images."""

from collections.abc import Iterable, Sequence
from typing import Final

from cyclopts import App

from beiran.api.models import Image, Layer
from beiran_cli.names import NodeNames, find_image, short_digest
from beiran_cli.options import DEFAULTS, OWN_HOST, Common, Scope
from beiran_cli.table import Columns, Names, Rows, print_fields, print_json, print_table
from beiran_cli.units import UNKNOWN, human_age, human_size

app = App(name="image")

PULL_HELP: Final = "Pull an image into this host's engine, from other nodes where they hold it."
PREFETCH_HELP: Final = "Ask other nodes to pull an image."


@app.command(name="list")
def list_images(*, scope: Scope = OWN_HOST, common: Common = DEFAULTS) -> None:
    """List the images of this host, of all nodes, or of one."""
    scope.check()
    with common.connect() as client:
        known, wanted = scope.read(client, names=not common.as_json)
        images = client.get_images(**wanted)
    if common.as_json:
        print_json(images)
        return
    print_table(*image_table(images, NodeNames(known)))


@app.command(name="show")
def show_image(image: str, /, *, common: Common = DEFAULTS) -> None:
    """Show one image: its names, its layers, and the nodes that hold it.

    Parameters
    ----------
    image
        Its ID, the beginning of it, or a tag.
    """
    with common.connect() as client:
        known = client.get_known_nodes()
        names = NodeNames(known)
        found = find_image(image, client.get_images(all=True), names)
        answer = client.get_image(found.id)
        layers = [] if common.as_json else client.get_layers(all=True)
    if common.as_json:
        print_json(answer)
        return
    print_fields(
        [
            ("Image", answer.id),
            ("Tags", answer.tags or "<none>"),
            ("Digests", answer.digests or "<none>"),
            ("Platform", "/".join(filter(None, (answer.os, answer.architecture))) or UNKNOWN),
            ("Created", human_age(answer.created_at)),
            ("Size", size(answer)),
            ("Layers", _layer_lines(answer, layers)),
            ("Nodes", names.of(answer.available_at) or "<none>"),
        ]
    )


app.command("beiran_cli.pulls:pull_image", name="pull", help=PULL_HELP)
app.command("beiran_cli.pulls:prefetch_image", name="prefetch", help=PREFETCH_HELP)


def image_table(images: Sequence[Image], names: NodeNames) -> tuple[Columns, Rows]:
    """The table of ``beiran image list``."""
    return (
        ("IMAGE", "ID", "CREATED", "SIZE", "NODES"),
        [
            (
                name,
                short_digest(image.id),
                human_age(image.created_at),
                size(image),
                Names(names.of(image.available_at)),
            )
            for name, image in _named(images)
        ],
    )


def size(image: Image) -> str:
    """An image's size in words; ``N/A`` where it is unknown."""
    return UNKNOWN if image.size_bytes is None else human_size(image.size_bytes)


def _named(images: Sequence[Image]) -> list[tuple[str, Image]]:
    """A row for each tag, as ``docker images`` has it; one for an image without a tag.

    The tags are sorted. Images without a tag come last, in the order of the API: the newest first.
    """
    tagged = [(tag, image) for image in images for tag in image.tags]
    tagged.sort(key=lambda row: (row[0], row[1].id))
    return tagged + [(_without_tag(image), image) for image in images if not image.tags]


def _without_tag(image: Image) -> str:
    """``busybox:<none>`` where at least the repository is known."""
    return f"{image.digests[0].partition('@')[0]}:<none>" if image.digests else "<none>"


def _layer_lines(image: Image, layers: Iterable[Layer]) -> list[str] | str:
    sizes = {layer.digest: human_size(layer.size_bytes) for layer in layers}
    lines = [f"{digest}   {sizes.get(digest, UNKNOWN)}" for digest in image.layers]
    return lines or "<none>"
