"""Decide in which form an engine gets each layer of an image: as published, or as its tar.

A layer comes compressed, as the registry has it, or unpacked, as a graph driver has it (see
``docs/explanation/pull.md``, "Which form an engine gets"). The form with the fewest bytes is
chosen, and bytes of the origin count before all. This module only decides: ``locations`` finds out
what is where, and ``delivery`` acts.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from beiran.ids import Digest
from beiran.oci.manifests import Descriptor, unpacked_layer

LOADED_BYTES_MAX: Final = 64 * 2**20
"""The most that is loaded into the engine while its request for a manifest waits: some 5 s at
100 Mbit/s, within ``delivery.LOAD_PATIENCE_S``."""


class LayerFacts(Struct, frozen=True, kw_only=True):
    """Where one layer of an image is that an engine wants.

    Attributes:
      published: the layer as the manifest names it, usually compressed.
      diff_id: the digest of its tar.
      there: the engine has it, and all below it; on a store that keeps compressed blobs, that blob.
      recognised: the engine would not ask for it by its published name.
      skipped: the engine would not ask for it though it is not ``there``: containerd's store skips
        a layer that it has unpacked from another blob, and then does not list the image.
      tar_here: the engine itself can give its tar.
      compressed_near: the published blob is in the cache, with a peer, or on its way here.
      tar_bytes: length of its tar, where that is here or with a peer; else None.
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
    """Whether another manifest than the published one is best."""
    return any(layer.best.digest != layer.published.digest for layer in layers)


def is_better_loaded(layers: Sequence[LayerFacts]) -> bool:
    """Whether loading the image spares bytes, or a broken image, that the engine's pull costs."""
    spares = any(layer.skipped or (layer.there and not layer.recognised) for layer in layers)
    return spares or needs_another_form(layers)


def bytes_to_load(layers: Sequence[LayerFacts], *, from_origin: bool = False) -> int | None:
    """How many bytes the engine must be given for the image; None where a layer has no source.

    Args:
      from_origin: whether the origin counts as a source.
    """
    total = 0
    for layer in layers:
        if layer.there:
            continue
        if not (layer.compressed_near or layer.tar_bytes is not None or from_origin):
            return None
        total += layer.best.size
    return total
