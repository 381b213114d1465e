"""``beiran info``: this node, its problems and its counters."""

from cyclopts import App

from beiran.api.models import EngineInfo, Info
from beiran_cli.options import DEFAULTS, Common
from beiran_cli.table import print_fields, print_json
from beiran_cli.units import human_age

app = App(name="info")


@app.default
def info(*, common: Common = DEFAULTS) -> None:
    """Show this host's agent: its identity, state, problems and counters."""
    with common.connect() as client:
        answer = client.get_info()
    if common.as_json:
        print_json(answer)
        return
    print_fields(
        [
            ("Node", f"{answer.name} ({answer.uuid})"),
            ("Cluster", answer.cluster),
            ("Address", address(answer.address, answer.port)),
            (
                "State",
                f"{answer.state}, generation {answer.generation}, incarnation {answer.incarnation}",
            ),
            ("Version", answer.version),
            ("Engine", engine_words(answer.engine)),
            ("Started", human_age(answer.started_at)),
            ("Nodes", f"{answer.nodes_online} online, {answer.nodes_known} known"),
            ("Images", str(answer.images)),
            ("Layers", str(answer.layers)),
            ("Encrypted", "yes" if answer.encrypted else "no"),
            ("Problems", answer.problems or "none"),
            *_counters(answer),
        ]
    )


def engine_words(engine: EngineInfo | None) -> str:
    """An engine in a few words: ``docker 26.1.5 overlay2``, ``oci /srv/images``."""
    if engine is None:
        return "unknown"
    words = [engine.kind, engine.version if engine.kind == "docker" else "", engine.store]
    return " ".join(filter(None, [*words, "" if engine.up else "(down)"]))


def address(host: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _counters(answer: Info) -> list[tuple[str, list[str]]]:
    lines = [f"{name} {count}" for name, count in sorted(answer.counters.items()) if count]
    return [("Counters", lines)] if lines else []
