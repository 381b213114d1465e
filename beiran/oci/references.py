"""References: how images are named, in full, as people write them, and in the mirror's paths.

Source: distribution's ``reference`` package (grammar, normalisation, familiar form); what it leaves
open about hosts is Docker's ``splitDockerDomain``.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from msgspec import Struct

from beiran.ids import Digest, digest_text, parse_digest

DOCKER_HUB: Final = "docker.io"
OFFICIAL: Final = "library/"
DEFAULT_TAG: Final = "latest"
NAME_CHARS_MAX: Final = 255  # of registry and repository together

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{64}")
_PORT_IN_PATH: Final = re.compile(r"(.+)__([0-9]{1,5})")
_HUB_NAMES: Final = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")


class Reference(Struct, frozen=True):
    """What somebody calls an image.

    Attributes:
      registry: ``docker.io``, ``quay.io``, ``host:5000``; in lower case.
      repository: in that registry, ``library/busybox``.
      tag: None when there is none; whether that means ``latest`` is for the reader to say.
      digest: of a manifest or index; it counts for more than the tag.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._rest}"

    @property
    def familiar(self) -> str:
        """As Docker shows it: without ``docker.io`` and ``library/``. Reads back as the same."""
        return familiar_repository(self.registry, self.repository) + self._rest

    @property
    def tagged(self) -> "Reference":
        """The same; ``latest`` where there is neither a tag nor a digest."""
        if self.tag or self.digest:
            return self
        return Reference(self.registry, self.repository, DEFAULT_TAG)

    @property
    def _rest(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return tag + (f"@{digest_text(self.digest)}" if self.digest else "")


class Repository(NamedTuple):
    """A repository of a registry, in full."""

    registry: str
    repository: str


def parse_reference(text: str) -> Reference:
    """Read ``busybox``, ``user/app:1``, ``host:5000/a/b@sha256:…``.

    Raises: ValueError, one line, for what is not the name of an image.
    """
    if _IMAGE_ID.fullmatch(text):
        raise ValueError(f"{text} is an image's ID, not a name")
    name, at, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        name = head
    else:
        tag, colon = "", ""
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"{text!r}: {tag!r} is not a tag")
    try:
        found = full_repository(name)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return Reference(*found, tag or None, parse_digest(digest) if at else None)


def full_repository(name: str) -> Repository:
    """Read a name without tag and digest: ``busybox`` is ``docker.io`` and ``library/busybox``.

    Raises: ValueError, one line.
    """
    first, slash, rest = name.partition("/")
    is_registry = slash and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    registry, repository = (first, rest) if is_registry else (DOCKER_HUB, name)
    registry = registry_name(registry)
    if registry == DOCKER_HUB and "/" not in repository:
        repository = OFFICIAL + repository
    if not _REPOSITORY.fullmatch(repository):
        why = "must be in lower case" if _REPOSITORY.fullmatch(repository.lower()) else "is no name"
        raise ValueError(f"the repository {repository!r} {why}")
    if len(registry) + 1 + len(repository) > NAME_CHARS_MAX:
        raise ValueError(f"a name has at most {NAME_CHARS_MAX} characters")
    return Repository(registry, repository)


def registry_name(text: str) -> str:
    """A registry by its one name: in lower case, and ``docker.io`` by any of Docker Hub's.

    Raises: ValueError for what is not ``HOST`` or ``HOST:PORT``.
    """
    port = text.rpartition(":")[2] if re.search(r":[0-9]+$", text) else ""
    if not _REGISTRY.fullmatch(text) or (port and not 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r} is not a registry (HOST or HOST:PORT)")
    name = text.lower()
    return DOCKER_HUB if name in _HUB_NAMES else name


def familiar_repository(registry: str, repository: str) -> str:
    """The name as Docker shows it: ``busybox`` for ``library/busybox`` of ``docker.io``.

    Source: distribution/reference, ``FamiliarName``.
    """
    if registry != DOCKER_HUB:
        return f"{registry}/{repository}"
    official = repository.removeprefix(OFFICIAL)
    return repository if "/" in official else official


def matches_any(patterns: Iterable[str], registry: str, repository: str) -> bool:
    """Whether a repository is among ``patterns``: names in full, ``*`` for any characters."""
    return any(fnmatchcase(f"{registry}/{repository}", pattern) for pattern in patterns)


def mirror_repository(registry: str, repository: str) -> str:
    """The name by which a repository of any registry is asked of the mirror.

    Docker Hub's keep their own, as Docker asks a mirror for them. Others have the registry first,
    ``quay.io/foo/bar``, with ``__`` for the colon before a port, which a path has no room for:
    ``host__5000/foo``.

    Raises: ValueError for a registry with an IPv6 address, which no path can name.
    """
    if "[" in registry:
        raise ValueError(f"{registry}: a registry by its IPv6 address has no name in the mirror")
    first, slash, _ = repository.partition("/")
    if registry == DOCKER_HUB and not (slash and _registry_in_path(first)):
        return repository
    host, colon, port = registry.rpartition(":")
    if colon:
        return f"{host}__{port}/{repository}"
    if _registry_in_path(registry) is None:
        raise ValueError(
            f"{registry}: a registry without a dot and a port has no name in the mirror"
        )
    return f"{registry}/{repository}"


def mirrored_repository(path: str) -> Repository:
    """Which repository ``path``, as ``mirror_repository`` makes it, stands for.

    Raises: ValueError, one line.
    """
    first, slash, rest = path.partition("/")
    registry = _registry_in_path(first) if slash else None
    if registry is None:
        return full_repository(f"{DOCKER_HUB}/{path}")
    return full_repository(f"{registry}/{rest}")


def _registry_in_path(component: str) -> str | None:
    """The registry that the first component of a path is; None when it is none."""
    with_port = _PORT_IN_PATH.fullmatch(component)
    text = f"{with_port[1]}:{with_port[2]}" if with_port else component
    if not (with_port or "." in component or component == "localhost"):
        return None
    try:
        return registry_name(text)
    except ValueError:
        return None
