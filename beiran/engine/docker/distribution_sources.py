"""The repositories that containerd has pulled from or pushed to.

Docker's image store on containerd shows a repository digest for every image with a name, also for
an image that was only built here. containerd labels each blob that it pulled or pushed with
``containerd.io/distribution.source.REGISTRY=REPOSITORY``. Its database is a bbolt file, in which
the value of a label follows its key. This module searches the file's bytes for the key. bbolt does
not wipe freed pages, so a removed label may still be found: then an image counts as pulled that is
not.

Source: containerd, ``metadata/buckets.go`` and ``remotes/docker/handler.go``; bbolt, ``page.go``.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from beiran.oci.references import Repository

METADATA: Final = Path("io.containerd.metadata.v1.bolt") / "meta.db"
DATABASE_BYTES_MAX: Final = 256 * 2**20
"""A larger one is not read, and every repository digest counts. Chosen to bound memory."""
LABEL: Final = b"containerd.io/distribution.source."
VALUE_BYTES_MAX: Final = 4096  # containerd's labels.Validate, key and value together


class PulledNames:
    """Reads the databases of containerd.

    Args:
      roots: containerd's root folders; missing ones are skipped.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._paths: Final = [root / METADATA for root in roots]
        self._labels: list[bytes] | None = None

    def came_from(self, repository: Repository) -> bool:
        """Whether a repository was pulled from or pushed to; True if that cannot be read.

        Blocks.
        """
        # containerd's AppendDistributionSourceLabel leaves out the port.
        host = urlsplit("//" + repository.registry).hostname or ""
        registry, name = host.encode(), repository.repository.encode()
        # A value is followed by the next key without anything between, so its end is not known.
        wanted = re.compile(re.escape(registry) + rb"(?:[^\x00]*,)?" + re.escape(name))
        if self._labels is not None and any(wanted.match(label) for label in self._labels):
            return True  # labels are never removed
        labels = self._read()
        return labels is None or any(wanted.match(label) for label in labels)

    def _read(self) -> Sequence[bytes] | None:
        """The bytes after each label's beginning; None if there is no readable database."""
        try:
            there = [path for path in self._paths if path.exists()]
            if not there or sum(path.stat().st_size for path in there) > DATABASE_BYTES_MAX:
                return None
            self._labels = [label for path in there for label in _labels(path.read_bytes())]
        except OSError:
            return None
        return self._labels


def _labels(data: bytes) -> list[bytes]:
    found = []
    at = data.find(LABEL)
    while at >= 0:
        start = at + len(LABEL)
        found.append(data[start : start + VALUE_BYTES_MAX])
        at = data.find(LABEL, start)
    return list(dict.fromkeys(found))
