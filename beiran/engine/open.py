"""Which engine a setting means."""

import stat
from pathlib import Path
from typing import Final

from beiran.engine.interface import Engine
from beiran.errors import SettingsError

DOCKER_SOCKET: Final = "/var/run/docker.sock"


def open_engine(spec: str | None, *, cache_dir: Path | None = None) -> Engine:
    """The engine that ``spec`` names; it need not be there yet.

    Args:
      spec: ``docker://PATH`` (of Docker's socket), ``oci:DIR`` (an OCI image layout), ``none``,
        or None for Docker where its socket is, and none where it is not.
      cache_dir: where sizes of layers are kept over a restart; None keeps them in memory.

    Raises: SettingsError that says what to write.
    """
    sizes_file = None if cache_dir is None else cache_dir / "layer-sizes"
    if spec is None:
        spec = f"docker://{DOCKER_SOCKET}" if _is_socket(DOCKER_SOCKET) else "none"
    kind, separator, place = spec.partition("://" if spec.startswith("docker:") else ":")
    if spec == "none":
        from beiran.engine.no_engine import NoEngine

        return NoEngine()
    if kind == "docker" and separator and place.startswith("/"):
        from beiran.engine.docker.docker_engine import DockerEngine

        return DockerEngine(place, sizes_file=sizes_file)
    if kind == "oci" and place:
        from beiran.engine.oci_layout.layout_engine import OciLayoutEngine

        return OciLayoutEngine(Path(place), sizes_file=sizes_file)
    raise SettingsError(
        f"engine {spec!r} is not known: write docker:///PATH/OF/docker.sock, oci:FOLDER or none"
    )


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return False
