"""Image names in the short form that Docker shows. The engines convert names with it."""

from typing import Final

from beiran.ids import parse_digest
from beiran.oci.images import RepoDigest

NAME_CHARACTERS_MAX: Final = 512
"""No valid reference is longer: 255 characters of registry and repository, 128 of a tag, 71 of a
digest, and the separators."""


def familiar_name(reference: str) -> str:
    """Shorten a reference as Docker does: ``docker.io/library/a:1`` becomes ``a:1``.

    Returns: the short name; empty if ``reference`` is too long or has unprintable characters.
    Source: distribution/reference, ``FamiliarString``.
    """
    if not 0 < len(reference) <= NAME_CHARACTERS_MAX or not reference.isprintable():
        return ""
    for host in ("docker.io/", "index.docker.io/"):
        if reference.startswith(host):
            return reference.removeprefix(host).removeprefix("library/")
    return reference


def tags_of(names: list[str] | None) -> tuple[str, ...]:
    """The tags in Docker's ``RepoTags``, sorted.

    Leaves out ``<none>:<none>``, and ``NAME@sha256:…``, which Docker 26.1 lists among the tags.
    """
    found = {familiar_name(name) for name in names or () if not {"<", "@"} & set(name)}
    return tuple(sorted(found - {""}))


def digests_of(names: list[str] | None) -> tuple[RepoDigest, ...]:
    """The digests in Docker's ``RepoDigests``, sorted. Leaves out entries without a SHA-256."""
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
