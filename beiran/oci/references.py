"""Parses and formats image references: full, short, and in the mirror's paths.

Source: distribution's ``reference`` package (grammar, normalisation, familiar form), and its
``splitDockerDomain`` for the choice between a registry's name and a repository's first component.
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
    """The name of an image: registry, repository, and optionally a tag and a digest.

    Attributes:
      registry: ``docker.io``, ``quay.io``, ``host:5000``; in lower case.
      repository: its name in the registry, such as ``library/busybox``.
      tag: None if the name has none. ``tagged`` adds the default.
      digest: of a manifest or index. It takes precedence over the tag.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._rest}"

    @property
    def familiar(self) -> str:
        """The short form that Docker shows, without ``docker.io`` and ``library/``.

        ``parse_reference`` turns it back into an equal reference.
        """
        return familiar_repository(self.registry, self.repository) + self._rest

    @property
    def tagged(self) -> "Reference":
        """This reference, with the tag ``latest`` if it has neither a tag nor a digest."""
        if self.tag or self.digest:
            return self
        return Reference(self.registry, self.repository, DEFAULT_TAG)

    @property
    def _rest(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return tag + (f"@{digest_text(self.digest)}" if self.digest else "")


class Repository(NamedTuple):
    """A registry and the full name of a repository in it."""

    registry: str
    repository: str


def parse_reference(text: str) -> Reference:
    """Parse ``busybox``, ``user/app:1``, ``host:5000/a/b@sha256:…``.

    Raises: ValueError, one line, if ``text`` is not the name of an image.
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
    """Parse a name without tag and digest: ``busybox`` is ``library/busybox`` of ``docker.io``.

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
    """Normalise a registry's name: lower case, and ``docker.io`` for each name of Docker Hub.

    Raises: ValueError if ``text`` is not ``HOST`` or ``HOST:PORT``.
    """
    port = text.rpartition(":")[2] if re.search(r":[0-9]+$", text) else ""
    if not _REGISTRY.fullmatch(text) or (port and not 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r} is not a registry (HOST or HOST:PORT)")
    name = text.lower()
    return DOCKER_HUB if name in _HUB_NAMES else name


def familiar_repository(registry: str, repository: str) -> str:
    """The short name that Docker shows: ``busybox`` for ``library/busybox`` of ``docker.io``.

    Source: distribution/reference, ``FamiliarName``.
    """
    if registry != DOCKER_HUB:
        return f"{registry}/{repository}"
    official = repository.removeprefix(OFFICIAL)
    return repository if "/" in official else official


def matches_any(patterns: Iterable[str], registry: str, repository: str) -> bool:
    """Whether a repository's full name matches one of ``patterns``; ``*`` matches anything."""
    return any(fnmatchcase(f"{registry}/{repository}", pattern) for pattern in patterns)


def mirror_repository(registry: str, repository: str) -> str:
    """The name of a repository in the mirror's paths.

    A repository of Docker Hub keeps its name, because Docker requests it from a mirror by that
    name. Other names start with the registry: ``quay.io/foo/bar``. ``__`` replaces the colon before
    a port, which a repository's name cannot contain: ``host__5000/foo``.

    Raises: ValueError if the registry is an IPv6 address, or has neither a dot nor a port.
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
    """Parse a path that ``mirror_repository`` made.

    Raises: ValueError, one line.
    """
    first, slash, rest = path.partition("/")
    registry = _registry_in_path(first) if slash else None
    if registry is None:
        return full_repository(f"{DOCKER_HUB}/{path}")
    return full_repository(f"{registry}/{rest}")


def _registry_in_path(component: str) -> str | None:
    """Parse the first component of a path as a registry; None if it is not one."""
    with_port = _PORT_IN_PATH.fullmatch(component)
    text = f"{with_port[1]}:{with_port[2]}" if with_port else component
    if not (with_port or "." in component or component == "localhost"):
        return None
    try:
        return registry_name(text)
    except ValueError:
        return None
