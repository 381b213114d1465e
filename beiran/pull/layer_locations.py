"""What is where: for each layer of an image, whether our engine has it, our cache, or a peer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from beiran.cache.blob_cache import BlobCache
from beiran.engine.interface import Engine
from beiran.ids import Digest, NodeId, digest_text
from beiran.oci.manifests import ImageConfig, ImageManifest
from beiran.pull.layer_format import LayerFacts
from beiran.pull.peer_lookup import ASKED_MAX, Near, Nearby
from beiran.store.async_reads import Reads
from beiran.transfer.downloads import Transfers


class Survey(Struct, frozen=True):
    """What was found.

    Attributes:
      here: our engine has the whole image; it will not ask for anything.
      layers: the base first.
      sources: which peers can give a blob, by its digest.
      keeps_blobs: the engine keeps the blobs that a manifest names, as containerd's store does.
      pulls: the engine is one that pulls; if not, whoever asks the mirror is not the engine.
    """

    here: bool
    layers: tuple[LayerFacts, ...]
    sources: Mapping[Digest, tuple[NodeId, ...]]
    keeps_blobs: bool = False
    pulls: bool = True

    @property
    def skips(self) -> bool:
        """Whether the engine, pulling, would pass over a blob without which it is not whole."""
        return any(layer.skipped for layer in self.layers)

    @property
    def as_published(self) -> "Survey":
        """As if nobody had any layer's tar."""
        layers = tuple(replace(each, tar_bytes=None, tar_here=False) for each in self.layers)
        return replace(self, layers=layers)


class Surveyor:
    """Looks where an image's layers are."""

    def __init__(
        self,
        reads: Reads,
        cache: BlobCache,
        engine: Engine,
        nearby: Nearby,
        transfers: Transfers,
        *,
        own: NodeId,
        random: Random,
    ) -> None:
        self._reads: Final = reads
        self._cache: Final = cache
        self._engine: Final = engine
        self._nearby: Final = nearby
        self._transfers: Final = transfers
        self._own: Final = own
        self._random: Final = random

    async def survey(
        self, manifest: ImageManifest, config: ImageConfig, near: Sequence[NodeId]
    ) -> Survey | None:
        """Where the layers of an image are; None when manifest and config do not go together.

        Args:
          near: nodes that are asked whatever the picture says of them.
        """
        diff_ids = config.diff_ids
        published = [layer.raw for layer in manifest.layers]
        if len(diff_ids) != len(published):
            return None
        image = manifest.config.raw
        missing = set(await self._engine.missing_layers(diff_ids))
        known = await self._engine.knows_compressed(dict(zip(published, diff_ids, strict=True)))
        keeps_published = self._engine.keeps_compressed_blobs
        local = await self._engine.find_blobs([image, *dict.fromkeys(diff_ids)])
        lacking = [
            (blob, diff_id)
            for blob, diff_id in zip(published, diff_ids, strict=True)
            if (blob not in known if keeps_published else diff_id in missing)
            and self._cache.size(blob) is None
        ]
        wanted = [digest for pair in lacking for digest in pair]
        around = await self._around(image, [diff_id for _, diff_id in lacking], wanted, near)
        facts = []
        for layer, blob, diff_id in zip(manifest.layers, published, diff_ids, strict=True):
            unpacked = diff_id not in missing
            there = blob in known if keeps_published else unpacked
            tar_bytes = local.get(diff_id)
            if tar_bytes is None and diff_id in around:
                tar_bytes = around[diff_id].size_bytes
            facts.append(
                LayerFacts(
                    published=layer,
                    diff_id=diff_id,
                    there=there,
                    recognised=blob in known,
                    skipped=unpacked and not there,
                    tar_here=diff_id in local,
                    compressed_near=(
                        self._cache.size(blob) is not None
                        or self._transfers.is_under_way(blob)
                        or blob in around
                    ),
                    tar_bytes=tar_bytes,
                )
            )
        sources = {digest: found.nodes for digest, found in around.items()}
        here = image in local and all(layer.there for layer in facts)
        return Survey(here, tuple(facts), sources, keeps_published, self._engine.can_pull)

    async def _around(
        self,
        image: Digest,
        diff_ids: Sequence[Digest],
        wanted: Sequence[Digest],
        near: Sequence[NodeId],
    ) -> dict[Digest, Near]:
        """Which peers can give what, asked of those that most likely can."""
        if not wanted:
            return {}
        texts = [digest_text(digest) for digest in (image, *diff_ids)]
        holders = await self._reads(lambda queries: queries.holders(texts))
        nodes = self._likeliest(holders, texts[0], near)
        return await self._nearby.having(wanted, nodes)

    def _likeliest(
        self, holders: Mapping[str, Sequence[NodeId]], image: str, near: Sequence[NodeId]
    ) -> list[NodeId]:
        """First some who have the image, then whoever adds most layers; ties by chance."""
        whole = [node for node in (*near, *holders.get(image, ())) if node != self._own]
        self._random.shuffle(whole)
        chosen = dict.fromkeys(whole[: ASKED_MAX // 2])
        uncovered = {digest for digest, nodes in holders.items() if not chosen.keys() & set(nodes)}
        while uncovered and len(chosen) < ASKED_MAX:
            counts = Counter(
                node
                for digest in sorted(uncovered)
                for node in holders[digest]
                if node != self._own and node not in chosen
            )
            if not counts:
                break
            best = max(counts.items(), key=lambda item: (item[1], item[0]))[0]
            chosen[best] = None
            uncovered = {digest for digest in uncovered if best not in holders[digest]}
        for node in whole:
            if len(chosen) >= ASKED_MAX:
                break
            chosen[node] = None
        return list(chosen)
