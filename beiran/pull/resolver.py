"""Resolve a name or a digest to an image: its manifest, its provenance, and nodes that hold it.

A tag is resolved (``tags``), or a digest authorized (``authorization``); the manifest is read
(``manifest_store``) and what it names is granted. ``mirror_backend`` answers an engine with the
result, ``jobs`` pulls by it.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import Reference, RepositoryName
from beiran.mirror.errors import ManifestUnknown, OriginBroken, Unavailable
from beiran.oci.familiar_names import familiar_name
from beiran.oci.manifests import (
    ImageManifest,
    Index,
    Platform,
    choose_platform,
    digest_of,
    schema_2_manifest,
    unpacked_layer,
)
from beiran.oci.media_types import ACCEPTS_ANYTHING, Accept
from beiran.pull.authorization import Authorization, Provenance
from beiran.pull.locations import ImageLocations, Locator
from beiran.pull.manifest_store import ManifestStore, parsed_manifest
from beiran.pull.peer_lookup import PeerLookup
from beiran.pull.tags import BuiltImage, RegistryImage, TagResolver
from beiran.store.async_reads import Reads


class ResolvedImage(Struct, frozen=True, kw_only=True):
    """What a tag or a digest names.

    Attributes:
      data: the bytes of its manifest or index.
      document: the same, read.
      near: nodes that hold it under that name.
      by_tag: it was named by a tag, so another manifest of the same image may answer.
      locations: of its layers, where resolving it took them; else None.
      warning: what the user should know of how the name was resolved.
    """

    name: RepositoryName
    data: bytes
    document: ImageManifest | Index
    near: tuple[NodeId, ...]
    provenance: Provenance
    by_tag: bool
    locations: ImageLocations | None = None
    warning: str = ""


class PullPlan(Struct, frozen=True, kw_only=True):
    """What a pull takes.

    Attributes:
      data: the manifest or index that the reference names.
      manifest: the image's own: ``data``, or one of the index.
      image: ``manifest``, read.
      from_origin: whether the origin may be asked for layers that no node near has.
      warning: what the user should know of how the name was resolved.
    """

    name: RepositoryName
    data: bytes
    manifest: bytes
    image: ImageManifest
    locations: ImageLocations
    from_origin: bool
    warning: str


class Resolver:
    """Resolves names and digests of every repository of every registry.

    Args:
      platforms: what this host runs, the best first.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        lookup: PeerLookup,
        manifests: ManifestStore,
        tags: TagResolver,
        locator: Locator,
        authorization: Authorization,
        platforms: Sequence[Platform],
        own: NodeId,
    ) -> None:
        self._reads: Final = reads
        self._lookup: Final = lookup
        self._manifests: Final = manifests
        self._tags: Final = tags
        self._locator: Final = locator
        self._authorization: Final = authorization
        self._platforms: Final = platforms
        self._own: Final = own

    async def resolve(
        self, name: RepositoryName, reference: Reference, accept: Accept = ACCEPTS_ANYTHING
    ) -> ResolvedImage:
        """What a tag or digest names now. Raises: MirrorError."""
        if isinstance(reference, bytes):
            return await self._by_digest(name, Digest(reference))
        match await self._tags.resolve(name, reference, accept):
            case RegistryImage() as found:
                return await self._registry_image(name, reference, found)
            case BuiltImage() as found:
                return await self._built_image(name, found)

    async def _registry_image(
        self, name: RepositoryName, tag: str, found: RegistryImage
    ) -> ResolvedImage:
        provenance = Provenance.REGISTRY_OFFLINE if found.warning else Provenance.REGISTRY
        near = await self._holders(name, f":{tag}", f"@{digest_text(found.digest)}")
        near += found.nodes
        data = await self._manifests.manifest(
            name, found.digest, found.size_bytes, near, from_origin=not found.warning
        )
        return self._resolved(name, data, near, provenance, by_tag=True, warning=found.warning)

    async def _built_image(self, name: RepositoryName, found: BuiltImage) -> ResolvedImage:
        """An image as its holders give it.

        Its manifest is one by diff IDs where they are on a graph driver. A holder may be wrong
        about the size of a tar; then the manifest is made again with the size that most say.
        """
        data = await self._manifests.image_manifest(found.image, found.nodes)
        if data is None:
            raise Unavailable(
                f"{len(found.nodes)} nodes hold an image under this name of {name}, "
                "but none of them gives it"
            )
        provenance = Provenance.NODE if found.warning else Provenance.BUILT
        resolved = self._resolved(
            name, data, found.nodes, provenance, by_tag=True, warning=found.warning
        )
        located = await self._with_locations(resolved)
        if isinstance(located.document, ImageManifest) and located.locations is not None:
            mended = _with_agreed_sizes(located.document, located.locations)
            if mended is not None and await self._manifests.keep(digest_of(mended), mended):
                resolved = self._resolved(
                    name, mended, found.nodes, provenance, by_tag=True, warning=found.warning
                )
                return await self._with_locations(resolved)
        return located

    async def _with_locations(self, found: ResolvedImage) -> ResolvedImage:
        if not isinstance(found.document, ImageManifest):
            return found
        locations = await self._locator.locate(
            found.name, found.document, found.near, from_origin=found.provenance.is_in_registry
        )
        return replace(found, locations=locations)

    async def _by_digest(self, name: RepositoryName, digest: Digest) -> ResolvedImage:
        near = await self._holders(name, f"@{digest_text(digest)}")
        at_hand = bool(near) or await self._manifests.manifest_here(digest) is not None
        provenance = await self._authorization.check(name, digest, ManifestUnknown, at_hand=at_hand)
        is_granted = provenance is Provenance.REGISTRY
        try:
            data = await self._manifests.manifest(name, digest, None, near, from_origin=is_granted)
        except ManifestUnknown as error:
            if is_granted:
                raise
            raise offline_error(name, digest) from error
        return self._resolved(name, data, near, provenance, by_tag=False)

    async def _on_node(self, name: RepositoryName, tag: str, node: NodeId) -> ResolvedImage:
        """What one node holds under a tag, whatever the origin says."""
        called = familiar_name(f"{name}:{tag}")
        rows = await self._reads(lambda queries: queries.holdings_named(called))
        images = [row.image for row in rows if row.node == node]
        if not images:
            raise ManifestUnknown(f"that node has no {called}, or is offline")
        data = await self._lookup.image_manifest(images[0], [node])
        if data is None:
            raise Unavailable(f"that node does not give {called}")
        await self._manifests.keep(digest_of(data), data)
        return self._resolved(name, data, [node], Provenance.NODE, by_tag=True)

    def _resolved(
        self,
        name: RepositoryName,
        data: bytes,
        near: Sequence[NodeId],
        provenance: Provenance,
        *,
        by_tag: bool,
        warning: str = "",
    ) -> ResolvedImage:
        """Read a manifest, and grant what it names."""
        document = parsed_manifest(name, data)
        self._authorization.note(name, digest_of(data), document, provenance)
        return ResolvedImage(
            name=name,
            data=data,
            document=document,
            near=tuple(near),
            provenance=provenance,
            by_tag=by_tag,
            warning=warning,
        )

    async def plan(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        platforms: Sequence[Platform] = (),
        node: NodeId | None = None,
        tag: str = "",
    ) -> PullPlan:
        """What pulling ``reference`` takes: the image, and where its layers are.

        Args:
          platforms: what is wanted of an index, the best first; this host's by default.
          node: pull what this node has under the name, whatever the origin says.
          tag: by which ``node`` calls it, where ``reference`` is a digest.

        Raises: MirrorError.
        """
        if node is None:
            found = await self.resolve(name, reference)
        else:
            named = reference if isinstance(reference, str) else tag
            found = await self._on_node(name, named, node)
        from_origin = found.provenance is Provenance.REGISTRY
        platforms = platforms or self._platforms
        image = found
        if isinstance(found.document, Index):
            chosen = choose_platform(found.document, platforms)
            if chosen is None:
                runs = " or ".join(map(str, platforms))
                raise ManifestUnknown(f"{name} has no image for {runs} under that name")
            data = await self._manifests.manifest(
                name, chosen.raw, chosen.size, found.near, from_origin=from_origin
            )
            image = self._resolved(name, data, found.near, found.provenance, by_tag=False)
        if not isinstance(image.document, ImageManifest):
            raise OriginBroken(f"{name}: its index names an index instead of an image")
        locations = image.locations or await self._locator.locate(
            name, image.document, image.near, from_origin=from_origin
        )
        if locations is None:
            raise OriginBroken(f"{name}: its manifest and its config do not belong together")
        return PullPlan(
            name=name,
            data=found.data,
            manifest=image.data,
            image=image.document,
            locations=locations,
            from_origin=from_origin,
            warning=found.warning,
        )

    async def _holders(self, name: RepositoryName, *names: str) -> list[NodeId]:
        """The other nodes that have an image under one of these names (``:tag``, ``@digest``)."""
        repository = familiar_name(str(name))
        asked = [repository + one for one in names]
        rows = await self._reads(
            lambda queries: [row for one in asked for row in queries.holdings_named(one)]
        )
        return [row.node for row in rows if row.node != self._own]


def offline_error(name: RepositoryName, digest: Digest) -> Unavailable:
    """The origin does not answer, and no node has the digest."""
    return Unavailable(
        f"{name.registry} does not answer, and no other node has {digest_text(digest)} of {name}"
    )


def _with_agreed_sizes(image: ImageManifest, found: ImageLocations) -> bytes | None:
    """A manifest by diff IDs with the sizes that most nodes say; None where it has them."""
    layers = []
    for said, facts in zip(image.layers, found.layers, strict=True):
        is_tar = said.raw == facts.diff_id and facts.tar_bytes is not None
        layers.append(unpacked_layer(said.raw, facts.tar_bytes or 0) if is_tar else said)
    if [layer.size for layer in layers] == [layer.size for layer in image.layers]:
        return None
    return schema_2_manifest(image.config, layers)
