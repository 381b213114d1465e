"""Merge the rows of an engine into one image per config digest, and compare two such states.

``engine/docker/image_list.py`` and ``engine/oci_layout/layout_engine.py`` call it to make their
news.
"""

from collections.abc import Iterable, Iterator

from beiran.engine.interface import EngineImage, ImageChanged, ImageGone, ImagesListed
from beiran.ids import Digest
from beiran.oci.images import Holding, ImageDescription, RepoDigest

Images = dict[Digest, EngineImage]
Row = tuple[ImageDescription, Iterable[str], Iterable[RepoDigest]]
"""An image under some of its names. The same image may come in several rows."""


def merge(rows: Iterable[Row]) -> Images:
    """One image per config digest, with the names of all its rows."""
    descriptions: dict[Digest, ImageDescription] = {}
    tags: dict[Digest, set[str]] = {}
    digests: dict[Digest, set[RepoDigest]] = {}
    for description, row_tags, row_digests in rows:
        image = Digest(description.image)
        descriptions[image] = description
        tags.setdefault(image, set()).update(row_tags)
        digests.setdefault(image, set()).update(row_digests)
    return {
        image: EngineImage(
            description,
            Holding(image, tuple(sorted(tags[image])), tuple(sorted(digests[image]))),
        )
        for image, description in descriptions.items()
    }


def listed(images: Images) -> ImagesListed:
    """All of ``images`` as one piece of news."""
    return ImagesListed(tuple(images.values()))


def changes(before: Images, after: Images) -> Iterator[ImageGone | ImageChanged]:
    """The news that turn ``before`` into ``after``."""
    for image in before.keys() - after.keys():
        yield ImageGone(image)
    for image, held in after.items():
        if before.get(image) != held:
            yield ImageChanged(held)
