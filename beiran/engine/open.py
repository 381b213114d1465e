"""Open the engine that the settings name. The agent calls it once, at its start.

To add an engine: implement ``interface.Engine``, add its form to ``settings/values.py``
(``_engine``, ``EngineSpec``) and a case here, and run the contract suite of ``tests/engine``
against it.
"""

from pathlib import Path

from beiran.engine.interface import Engine
from beiran.settings.values import EngineSpec


def open_engine(spec: EngineSpec, *, cache_dir: Path | None = None) -> Engine:
    """The engine that ``spec`` names; it need not be there yet.

    Args:
      cache_dir: keeps the sizes of layers over a restart; None keeps them in memory.
    """
    # Imported here: an agent without Docker does not pay for the Docker SDK.
    sizes_file = None if cache_dir is None else cache_dir / "layer-sizes"
    match spec.kind:
        case "docker":
            from beiran.engine.docker.docker_engine import DockerEngine

            return DockerEngine(spec.path, sizes_file=sizes_file)
        case "oci":
            from beiran.engine.oci_layout.layout_engine import OciLayoutEngine

            return OciLayoutEngine(Path(spec.path), sizes_file=sizes_file)
        case "none":
            from beiran.engine.no_engine import NoEngine

            return NoEngine()
