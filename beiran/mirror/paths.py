"""Read the paths of the mirror's requests: a repository of some registry, a manifest, a blob.

A repository is one of Docker Hub unless its first component is a registry (``quay.io/foo``, or
``HOST__5000/foo``, since ``:`` cannot stand in a path), or the query has ``ns=REGISTRY``, as from
containerd.
"""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from beiran.errors import BadRequest
from beiran.http.messages import Request
from beiran.ids import Digest, parse_digest
from beiran.mirror.backend import Reference, RepositoryName
from beiran.mirror.errors import BlobUnknown, ManifestUnknown
from beiran.oci.references import DOCKER_HUB, full_repository, mirrored_repository, registry_name

_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")


class Asked(Struct, frozen=True):
    """The repository that a request is about.

    Attributes:
      path: the repository as the path has it.
      namespace: the query's ``ns``; None without one.
    """

    name: RepositoryName
    path: str
    namespace: str | None = None

    @property
    def has_next(self) -> bool:
        """Whether the client goes on to the registry itself after an error.

        Docker does for Docker Hub, and containerd with ``ns``. A client that has the registry in
        the path takes the mirror for the registry.
        """
        return self.namespace is not None or (
            self.name.registry == DOCKER_HUB and not self.path.startswith(f"{DOCKER_HUB}/")
        )

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """The header that confirms ``ns``. Source: "Registry Proxying"."""
        return [] if self.namespace is None else [("OCI-Namespace", self.namespace)]


def asked_repository(request: Request) -> Asked:
    """Read the repository from a request.

    Raises: BadRequest (NAME_INVALID).
    """
    path = request.path_args["name"]
    namespaces = request.query.get("ns", [])
    try:
        if not namespaces:
            return Asked(RepositoryName(*mirrored_repository(path)), path)
        (namespace,) = namespaces
        return Asked(_of_namespace(namespace, path), path, namespace)
    except ValueError as error:
        message = str(error) if len(namespaces) < 2 else "give ns once"
        raise BadRequest(message, code="NAME_INVALID") from None


def _of_namespace(namespace: str, path: str) -> RepositoryName:
    """Raises: ValueError."""
    registry = registry_name(namespace)
    within = mirrored_repository(path)
    if within.registry == registry and (registry != DOCKER_HUB or path.startswith(f"{registry}/")):
        # The mirror was configured with the registry in its path.
        return RepositoryName(*within)
    found = full_repository(f"{registry}/{path}")
    if found.registry != registry:
        raise ValueError(f"ns: {namespace!r} is not a registry with a dot or a port")
    return RepositoryName(*found)


def read_reference(text: str) -> Reference:
    """Read a tag or a digest of a manifest.

    Raises: BadRequest (DIGEST_INVALID); ManifestUnknown for a text that is neither, and for a
    digest of another algorithm than SHA-256.
    """
    if ":" in text:
        digest = _read_digest(text)
        if digest is None:
            raise ManifestUnknown(f"{text}: only SHA-256 digests are supported")
        return digest
    if not _TAG.fullmatch(text):
        raise ManifestUnknown(f"{text!r} is neither a tag nor a digest")
    return text


def read_blob_digest(text: str) -> Digest:
    """Read the digest of a blob.

    Raises: BadRequest (DIGEST_INVALID); BlobUnknown for another algorithm than SHA-256.
    """
    digest = _read_digest(text)
    if digest is None:
        raise BlobUnknown(f"{text}: only SHA-256 digests are supported")
    return digest


def _read_digest(text: str) -> Digest | None:
    """Returns: None for a digest of another algorithm."""
    try:
        return parse_digest(text)
    except ValueError as error:
        if not _DIGEST.fullmatch(text) or text.startswith("sha256:"):
            raise BadRequest(str(error), code="DIGEST_INVALID") from None
        return None
