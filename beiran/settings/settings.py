"""The agent's settings, from the command line, the environment and ``{config_dir}/beiran.toml``.

An option has one name, spelled ``--data-dir`` on the command line, ``BEIRAN_DATA_DIR`` in the
environment and ``data_dir`` in the file. The command line wins over the environment, and the
environment over the file. An error is one line that names the value, its place and the remedy.

To add a setting: a field of ``Settings``, its parser in ``values.PARSERS``, its option in
``cli/beiran_cli/agent.py``, and its row in ``docs/reference/settings.md`` (a test compares).

The layering is our own. Tried instead: cyclopts 5.4 with ``config=[Env, Toml]``. It names a file's
key without its file where a converter refuses the value, suggests nothing for an unknown key, turns
``name = 3`` into a string and ``join = "a,b"`` into one address, and raises TypeError where the
file is a folder. A secret in ``[origins.NAME]`` would also become an option on the command line.
"""

import difflib
import socket
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, cast

from msgspec import Struct, field, structs

from beiran.api import SOCKET_PATH_DEFAULT
from beiran.errors import SettingsError
from beiran.oci.references import registry_name
from beiran.settings.values import (
    ARRAY_OPTIONS,
    ORIGIN_PARSERS,
    PARSERS,
    EngineSpec,
    HostPort,
    Limit,
    LogFormat,
    LogLevel,
    OfflineTags,
    OriginSettings,
    shown,
)

__all__ = [
    "EngineSpec",
    "HostPort",
    "Limit",
    "OriginSettings",
    "Settings",
    "load_settings",
    "option_flag",
    "option_variable",
]

CONFIG_DIR: Final = "/etc/beiran"
CONFIG_FILE_NAME: Final = "beiran.toml"
DATA_DIR: Final = "/var/lib/beiran"
PORT: Final = 8888
BEACON_PORT: Final = 8887
MIRROR_PORT: Final = 8880
DOCKER_SOCKET: Final = "/var/run/docker.sock"  # DEFAULT_UNIX_SOCKET of the docker CLI

CONFIG_FILE_BYTES_MAX: Final = 1024 * 1024  # SOURCES_MAX addresses take 30 KB; bounds the read


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of an agent, checked and complete.

    Attributes:
      config_dir: holds ``beiran.toml`` and ``node.uuid``.
      data_dir: holds the database.
      socket: where the unix socket is made.
      cluster: agents of other clusters are ignored.
      name: what listings call this node.
      bind: the IP address to listen on, TCP and UDP.
      advertise: the IP address that other nodes use; None takes that of the default route.
      port: HTTP and WebSocket on TCP, gossip on UDP.
      beacon_port: UDP; the same on all hosts of a LAN.
      join: addresses of agents to look for.
      dns: names whose A, AAAA or SRV records lead to agents.
      beacon: whether to send and hear broadcasts.
      mirror_port: TCP port on loopback at which the engine pulls; 0 for no mirror.
      origin: other addresses of registries, as ``NAME=URL``; ``origins`` has them too.
      docker_config: Docker's ``config.json`` with the credentials for registries.
      cache_bytes: the blob cache's largest size; None takes a tenth of the disk, 20 GB at most.
      tag_ttl: seconds for which a resolved tag is used without asking its origin again.
      offline_tags: whether other nodes may resolve a tag while its origin does not answer.
      upload_limit: of bytes sent to other nodes.
      download_limit: of bytes received from other nodes.
      origin_limit: of bytes received from all origins together, and of transfers from each.
      allow_prefetch: repositories that other nodes may ask this one to pull; names in full
        (``docker.io/library/*``), with ``*`` for any characters.
      origins: settings of registries by name (``docker.io``), from the file's tables
        ``[origins.NAME]`` and from ``origin``.
    """

    config_dir: Path = Path(CONFIG_DIR)
    data_dir: Path = Path(DATA_DIR)
    socket: Path = Path(SOCKET_PATH_DEFAULT)
    cluster: str = "default"
    name: str
    bind: str = "0.0.0.0"
    advertise: str | None = None
    port: int = PORT
    beacon_port: int = BEACON_PORT
    join: tuple[HostPort, ...] = ()
    dns: tuple[str, ...] = ()
    beacon: bool = True
    engine: EngineSpec
    mirror_port: int = MIRROR_PORT
    origin: tuple[str, ...] = ()
    docker_config: Path | None = None
    cache_bytes: int | None = None
    tag_ttl: float = 0
    offline_tags: OfflineTags = "allow"
    upload_limit: Limit = Limit()
    download_limit: Limit = Limit()
    origin_limit: Limit = Limit()
    allow_prefetch: tuple[str, ...] = ()
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    origins: Mapping[str, OriginSettings] = field(default_factory=dict)


FILE_TABLES: Final = ("origins",)
"""Keys of the file only: every user of the host can read a command line, and these hold secrets."""
OPTION_NAMES: Final = tuple(name for name in Settings.__struct_fields__ if name not in FILE_TABLES)
FILE_KEYS: Final = tuple(name for name in OPTION_NAMES if name != "config_dir")


def option_flag(option: str) -> str:
    """The option on the command line: ``--data-dir``."""
    return "--" + option.replace("_", "-")


def option_variable(option: str) -> str:
    """The option's variable in the environment: ``BEIRAN_DATA_DIR``."""
    return "BEIRAN_" + option.upper()


class _Given(NamedTuple):
    """A value before it is parsed, and its place in the words of an error."""

    value: object
    where: str


def load_settings(
    cli: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    docker_socket: str = DOCKER_SOCKET,
) -> Settings:
    """Merge the settings: ``cli`` over ``environ`` over ``{config_dir}/beiran.toml``.

    Args:
      cli: values of the command line by option name (``data_dir``); None counts as absent.
      environ: environment variables; an empty one counts as absent.
      docker_socket: the default engine, if a socket is there (see ``_default_engine``).

    Raises: SettingsError, one line, for the first value that cannot be used.
    """
    given = {
        name: _Given(value, option_flag(name)) for name, value in cli.items() if value is not None
    }
    for name in OPTION_NAMES:
        variable = option_variable(name)
        if name not in given and environ.get(variable):
            given[name] = _Given(environ[variable], variable)
    config_dir = _parse("config_dir", given.get("config_dir", _Given(CONFIG_DIR, "")))
    for name, from_file in _read_file(Path(str(config_dir)) / CONFIG_FILE_NAME).items():
        given.setdefault(name, from_file)
    values = {name: _parse(name, item) for name, item in given.items()}
    if "name" not in values:
        values["name"] = _parse("name", _Given(socket.gethostname(), "the host's name"))
    if "engine" not in values:
        values["engine"] = _default_engine(docker_socket, environ)
    if "join" in values:
        port = cast(int, values.get("port", PORT))
        found = cast(tuple[tuple[str, int | None], ...], values["join"])
        values["join"] = tuple(HostPort(host, own or port) for host, own in found)
    origins = _tables(values.pop("origins", {}), given)
    for text in cast(tuple[str, ...], values.get("origin", ())):
        name, _, url = text.partition("=")
        origins[name] = structs.replace(origins.get(name, OriginSettings()), url=url)
    for name, origin in origins.items():
        if origin.url and origin.plain_http:
            raise SettingsError(f"origins: {name}: plain_http is for registries without a url")
    values["origins"] = origins
    if "docker_config" not in values:
        values["docker_config"] = _default_docker_config(environ)
    settings = Settings(**values)  # type: ignore[arg-type]  # each parser below makes its field's type
    _check_together(settings, given)
    return settings


def _default_engine(docker_socket: str, environ: Mapping[str, str]) -> EngineSpec:
    """The engine that Docker's own tools would ask, if there is one.

    Source: docker CLI, ``cli/command/cli.go`` (``DOCKER_HOST`` before ``DOCKER_CONTEXT``). The
    context of ``docker context use`` does not count: an agent belongs to the engine of its host.
    """
    if host := environ.get("DOCKER_HOST"):
        return cast(EngineSpec, _parse("engine", _Given(host, "DOCKER_HOST")))
    context = environ.get("DOCKER_CONTEXT", "")
    if context not in ("", "default"):
        return cast(EngineSpec, _parse("engine", _Given(f"context:{context}", "DOCKER_CONTEXT")))
    paths = [docker_socket]
    if runtime_dir := environ.get("XDG_RUNTIME_DIR"):
        paths.append(f"{runtime_dir}/docker.sock")  # of a rootless Docker
    for path in paths:
        try:
            if stat.S_ISSOCK(Path(path).stat().st_mode):
                return EngineSpec("docker", path)
        except OSError:
            continue
    return EngineSpec("none")


def _default_docker_config(environ: Mapping[str, str]) -> Path | None:
    """The file that ``docker login`` of this user writes. Source: docker CLI, ``config.Dir``."""
    folder = environ.get("DOCKER_CONFIG")
    if folder:
        return Path(folder).absolute() / "config.json"
    try:
        return Path(environ.get("HOME") or Path.home()) / ".docker" / "config.json"
    except RuntimeError:  # a user without a home
        return None


def _tables(value: object, given: Mapping[str, _Given]) -> dict[str, OriginSettings]:
    """Read the tables ``[origins.NAME]``, by the canonical names of their registries."""
    where = given["origins"].where if "origins" in given else ""
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: {value!r} is not a table ([origins.NAME])")
    origins = {}
    for name, table in value.items():
        try:
            registry = registry_name(name)
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from None
        origins[registry] = _origin_table(f"{where}.{name}", table)
    return origins


def _origin_table(where: str, table: object) -> OriginSettings:
    if not isinstance(table, dict):
        raise SettingsError(f"{where}: {shown(table)} is not a table")
    values = {}
    for key, value in table.items():
        if key not in ORIGIN_PARSERS:
            raise SettingsError(f"{where}: unknown key {key!r}{_nearest(key, ORIGIN_PARSERS)}")
        try:
            values[key] = ORIGIN_PARSERS[key](value)
        except ValueError as error:
            raise SettingsError(f"{where}: {key}: {error}") from error
    if ("username" in values) != ("password" in values):
        raise SettingsError(f"{where}: username and password go together")
    return OriginSettings(**values)  # type: ignore[arg-type]  # each parser makes its field's type


def _read_file(path: Path) -> dict[str, _Given]:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > CONFIG_FILE_BYTES_MAX:
        raise SettingsError(f"{path}: larger than {CONFIG_FILE_BYTES_MAX} bytes")
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {_one_line(str(error))}") from error
    for key in table:
        if key == "config_dir":
            raise SettingsError(
                f"{path}: config_dir cannot be set in the file that it leads to; "
                f"use --config-dir or BEIRAN_CONFIG_DIR"
            )
        if key not in FILE_KEYS + FILE_TABLES:
            near = _nearest(key, FILE_KEYS + FILE_TABLES)
            raise SettingsError(f"{path}: unknown key {key!r}{near}")
    for key in ARRAY_OPTIONS & table.keys():
        if isinstance(table[key], str):
            raise SettingsError(f"{path}: {key}: takes an array: {key} = [{table[key]!r}]")
    return {key: _Given(value, f"{path}: {key}") for key, value in table.items()}


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _parse(name: str, given: _Given) -> object:
    try:
        return PARSERS[name](given.value)
    except ValueError as error:
        raise SettingsError(f"{given.where}: {error}") from error


def _check_together(settings: Settings, given: Mapping[str, _Given]) -> None:
    if settings.mirror_port == settings.port:
        where = (given.get("mirror_port") or given["port"]).where
        raise SettingsError(f"{where}: port and mirror port are both {settings.port}")
    if settings.beacon and settings.port == settings.beacon_port:
        where = (given.get("beacon_port") or given["port"]).where
        raise SettingsError(f"{where}: port and beacon port are both {settings.port}")
    if settings.advertise and ":" in settings.advertise and ":" not in settings.bind:
        raise SettingsError(
            f"{given['advertise'].where}: {settings.advertise} is IPv6, "
            f"but the agent listens on IPv4 only ({settings.bind})"
        )
