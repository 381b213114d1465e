"""Read this node's UUID from ``{config_dir}/node.uuid``, or make it on the first start.

``agent.py`` calls it before all else: a node without a stable UUID is a new member at each start.
"""

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from beiran.errors import DataError
from beiran.ids import NodeId, new_node_id, node_id_text, parse_node_id

FILE_NAME: Final = "node.uuid"
FILE_MODE: Final = 0o644  # readable for all: a UUID is no secret
FILE_BYTES_MAX: Final = 128  # a UUID takes 36; bounds the read of a wrong file


def node_uuid(config_dir: Path) -> NodeId:
    """Read this node's UUID, or make it (and ``config_dir``) when there is none.

    The file appears with its whole text or not at all, and an existing file is never changed. Two
    agents that start at once both get the UUID of the first.

    Raises: DataError, one line, when the file holds anything else, or cannot be read or made.
    """
    path = config_dir / FILE_NAME
    try:
        found = _read(path)
        if found is None:
            config_dir.mkdir(parents=True, exist_ok=True)
            _make(path, new_node_id())
            found = _read(path)
    except OSError as error:
        forbidden = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        hint = "; run beirand as root, or choose another folder with --config-dir"
        raise DataError(
            f"{path}: cannot be read or made: {error.strerror}{hint if forbidden else ''}"
        ) from error
    if found is None:
        raise DataError(f"{path}: was removed while the agent started")
    return found


def _read(path: Path) -> NodeId | None:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        return parse_node_id(data.decode("ascii").strip())
    except ValueError:
        raise DataError(
            f"{path}: does not contain a UUID; restore its text, or remove the file "
            "to join as a new node"
        ) from None


def _make(path: Path, node: NodeId) -> None:
    draft = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), FILE_MODE)  # the umask may have removed bits
            file.write(node_id_text(node) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces an existing file.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
