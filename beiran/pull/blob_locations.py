"""Where the blobs of an image can be had: noted with its manifest, for when the engine asks."""

from typing import Final

import trio
from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import ImageManifest
from beiran.pull.layer_locations import Survey
from beiran.transfer.downloads import Wanted

PLACES_MAX: Final = 20_000
PLACE_FRESH_S: Final = 60.0
"""After so long it is asked anew who has the blobs of an image: nodes come, go, pull and remove."""


class _Place(Struct, frozen=True):
    """Where a blob that a manifest names can be had."""

    size_bytes: int
    from_origin: bool
    sources: tuple[NodeId, ...]
    siblings: tuple[Digest, ...]
    """The layers of its image that the engine will ask for, the base first; else empty."""
    noted_at: float


class Places:
    """What was noted of blobs, by repository. In memory, bounded; the oldest go first."""

    def __init__(self) -> None:
        self._places: dict[tuple[RepositoryName, Digest], _Place] = {}

    def note(
        self,
        name: RepositoryName,
        image: ImageManifest,
        survey: Survey | None,
        *,
        from_origin: bool,
    ) -> None:
        """Where the blobs are that a manifest names.

        Args:
          survey: None for what is no image.
          from_origin: whether the origin has those that are published.
        """
        sources = {} if survey is None else survey.sources
        published = {layer.digest for layer in image.layers}
        recognised: set[str] = set()
        if survey is not None:
            published = {layer.published.digest for layer in survey.layers}
            recognised = {layer.published.digest for layer in survey.layers if layer.recognised}
        now = trio.current_time()
        siblings = tuple(layer.raw for layer in image.layers if layer.digest not in recognised)
        for layer in image.layers:
            self._note(
                (name, layer.raw),
                _Place(
                    layer.size,
                    from_origin and layer.digest in published,
                    tuple(sources.get(layer.raw, ())),
                    siblings,
                    now,
                ),
            )
        self._note((name, image.config.raw), _Place(image.config.size, from_origin, (), (), now))

    def _note(self, key: tuple[RepositoryName, Digest], place: _Place) -> None:
        self._places.pop(key, None)
        self._places[key] = place
        while len(self._places) > PLACES_MAX:
            del self._places[next(iter(self._places))]

    def is_fresh(self, name: RepositoryName, digest: Digest) -> bool:
        """Whether this was noted just now."""
        place = self._places.get((name, digest))
        return place is not None and trio.current_time() - place.noted_at <= PLACE_FRESH_S

    def wanted(self, name: RepositoryName, digest: Digest) -> Wanted | None:
        """How to fetch a blob; None where nothing was noted of it."""
        place = self._places.get((name, digest))
        if place is None:
            return None
        return Wanted(
            digest=digest,
            size_bytes=place.size_bytes,
            name=name,
            from_origin=place.from_origin,
            sources=place.sources,
            rank=place.siblings.index(digest) if digest in place.siblings else 0,
        )

    def upcoming(self, name: RepositoryName, digest: Digest) -> list[Wanted]:
        """All layers of the image of which this one was asked for; none where it is alone."""
        place = self._places.get((name, digest))
        siblings = dict.fromkeys(place.siblings if place is not None else ())
        if len(siblings) < 2:
            return []
        return [wanted for each in siblings if (wanted := self.wanted(name, each)) is not None]
