"""In which form an engine gets an image: as published, by diff IDs, or some layers so, some so.

A layer can be had compressed, as the registry has it, or unpacked, as a graph driver has it (see
``docs/pull.md``). For each layer the form is chosen that moves the fewest bytes, the origin's
before all. This module only decides; what is where was found out before.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from beiran.ids import Digest
from beiran.oci.manifests import Descriptor, unpacked_layer

LOADED_BYTES_MAX: Final = 64 * 2**20
"""As much is loaded into the engine while its request for a manifest waits; more takes too long."""


class LayerFacts(Struct, frozen=True, kw_only=True):
    """What is known of one layer of an image that an engine wants.

    Attributes:
      published: as the manifest names it: usually compressed.
      diff_id: of its tar.
      there: the engine has it, and all below it; where it keeps published blobs, that blob.
      recognised: the engine would not even ask for it by its published name.
      skipped: it would not ask for it though it is not ``there``: containerd's store passes over
        what it has unpacked from another blob, and then does not list the image.
      tar_here: the engine itself can give its tar.
      compressed_near: the published blob is in our cache or with a peer, or comes in just now.
      tar_bytes: length of its tar where that is here or with a peer; None where it is nowhere.
    """

    published: Descriptor
    diff_id: Digest
    there: bool
    recognised: bool
    skipped: bool = False
    tar_here: bool = False
    compressed_near: bool
    tar_bytes: int | None

    @property
    def best(self) -> Descriptor:
        """The form in which the engine should ask for it."""
        if self.recognised or self.tar_bytes is None:
            return self.published
        if self.compressed_near and not self.there and not self.tar_here:
            return self.published
        return unpacked_layer(self.diff_id, self.tar_bytes)


def needs_another_form(layers: Sequence[LayerFacts]) -> bool:
    """Whether as published is not the best form."""
    return any(layer.best.digest != layer.published.digest for layer in layers)


def is_better_loaded(layers: Sequence[LayerFacts]) -> bool:
    """Whether to load the image spares bytes, or trouble, that the engine's pull would cost."""
    spares = any(layer.skipped or (layer.there and not layer.recognised) for layer in layers)
    return spares or needs_another_form(layers)


def bytes_to_load(layers: Sequence[LayerFacts], *, from_origin: bool = False) -> int | None:
    """How many bytes the engine must be given for the image; None where some cannot come.

    Args:
      from_origin: whether what just the origin has may come from there.
    """
    total = 0
    for layer in layers:
        if layer.there:
            continue
        if not (layer.compressed_near or layer.tar_bytes is not None or from_origin):
            return None
        total += layer.best.size
    return total
