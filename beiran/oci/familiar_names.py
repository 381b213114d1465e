"""Names of images, as Docker shows them."""

from typing import Final

from beiran.ids import parse_digest
from beiran.oci.images import RepoDigest

NAME_CHARACTERS_MAX: Final = 512
"""Longer than any reference (255 for a name, 128 for a tag, and a host)."""


def familiar_name(reference: str) -> str:
    """``reference`` without what goes without saying: ``docker.io/library/a:1`` is ``a:1``.

    Empty when it cannot be a name at all. Source: distribution/reference, ``FamiliarString``.
    """
    if not 0 < len(reference) <= NAME_CHARACTERS_MAX or not reference.isprintable():
        return ""
    for host in ("docker.io/", "index.docker.io/"):
        if reference.startswith(host):
            return reference.removeprefix(host).removeprefix("library/")
    return reference


def tags_of(names: list[str] | None) -> tuple[str, ...]:
    """The tags among ``RepoTags``, sorted.

    ``<none>:<none>`` is none, nor is ``NAME@sha256:…``, which Docker 26.1 lists there.
    """
    found = {familiar_name(name) for name in names or () if not {"<", "@"} & set(name)}
    return tuple(sorted(found - {""}))


def digests_of(names: list[str] | None) -> tuple[RepoDigest, ...]:
    """``RepoDigests`` as they are held, sorted. What has no SHA-256 is left out."""
    found = set()
    for name in names or ():
        repository, _, digest = name.partition("@")
        if familiar := familiar_name(repository):
            try:
                found.add(RepoDigest(familiar, parse_digest(digest)))
            except ValueError:
                continue  # <none>@<none>
    return tuple(sorted(found))


def repository_of(reference: str) -> str:
    """``reference`` without its tag or digest."""
    name = reference.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
