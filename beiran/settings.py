"""What an operator can set: ``beirand``'s options, from the command line, the environment, a file.

Every option has one name, spelled ``--data-dir`` on the command line, ``BEIRAN_DATA_DIR`` in the
environment and ``data_dir`` in ``{config_dir}/beiran.toml``. The first of the three that has it
wins. Whatever cannot be used is told in one line that names where it came from.
"""

import difflib
import ipaddress
import re
import socket
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar, cast, get_args

from msgspec import Struct

from beiran.errors import SettingsError

CONFIG_DIR: Final = "/etc/beiran"
CONFIG_FILE_NAME: Final = "beiran.toml"
DATA_DIR: Final = "/var/lib/beiran"
SOCKET: Final = "/run/beiran/beiran.sock"
PORT: Final = 8888
BEACON_PORT: Final = 8887
DOCKER_SOCKET: Final = "/var/run/docker.sock"  # DEFAULT_UNIX_SOCKET of the docker CLI

NAME_BYTES_MAX: Final = 255  # a name is one length byte on the wire
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of unix(7) has 108, the last a NUL
DNS_LABEL_CHARS_MAX: Final = 63  # RFC 1035 §2.3.4
DNS_NAME_CHARS_MAX: Final = 253
SOURCES_MAX: Final = 1000  # addresses and names to join by; more is a mistake
CONFIG_FILE_BYTES_MAX: Final = 1024 * 1024

_T = TypeVar("_T")

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_DNS_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")


class HostPort(NamedTuple):
    """Where to look for an agent: an IP address in its canonical form, and its port."""

    host: str
    port: int


class EngineSpec(Struct, frozen=True):
    """Which engine to watch.

    ``path`` is Docker's socket (``docker``), the layout folder (``oci``), or empty (``none``).
    """

    kind: Literal["docker", "oci", "none"]
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "docker":
            return f"docker://{self.path}"
        return f"oci:{self.path}" if self.kind == "oci" else "none"


class Settings(Struct, frozen=True, kw_only=True):
    """Everything an agent is told; checked, and complete.

    Attributes:
      config_dir: holds ``beiran.toml`` and ``node.uuid``.
      data_dir: holds the database.
      socket: where the unix socket is made.
      cluster: agents of other clusters are ignored.
      name: what listings call this node.
      bind: the IP address to listen on, TCP and UDP.
      advertise: the IP address that others are told; None finds it out.
      port: HTTP and WebSocket on TCP, gossip on UDP.
      beacon_port: UDP; the same on all hosts of a LAN.
      join: agents to look for.
      dns: names whose A, AAAA or SRV records are agents to look for.
      beacon: whether to find agents by broadcast, and be found.
    """

    config_dir: Path = Path(CONFIG_DIR)
    data_dir: Path = Path(DATA_DIR)
    socket: Path = Path(SOCKET)
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
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"


OPTION_NAMES: Final = Settings.__struct_fields__
FILE_KEYS: Final = tuple(name for name in OPTION_NAMES if name != "config_dir")


def option_flag(option: str) -> str:
    """How an option is spelled on the command line: ``--data-dir``."""
    return "--" + option.replace("_", "-")


def option_variable(option: str) -> str:
    """How an option is spelled in the environment: ``BEIRAN_DATA_DIR``."""
    return "BEIRAN_" + option.upper()


class _Given(NamedTuple):
    """A value as somebody wrote it, and where, in the words for an error."""

    value: object
    where: str


def load_settings(
    cli: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    docker_socket: str = DOCKER_SOCKET,
) -> Settings:
    """Put the settings together: ``cli`` over ``environ`` over ``{config_dir}/beiran.toml``.

    Args:
      cli: what the command line gave, by option name (``data_dir``); None is not given.
      environ: environment variables; an empty one is not given.
      docker_socket: the engine when none is given and this is a socket; else there is none.

    Raises: SettingsError, one line, for anything that cannot be used.
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
        values["engine"] = _default_engine(docker_socket)
    if "join" in values:
        port = cast(int, values.get("port", PORT))
        found = cast(tuple[tuple[str, int | None], ...], values["join"])
        values["join"] = tuple(HostPort(host, own or port) for host, own in found)
    settings = Settings(**values)  # type: ignore[arg-type]  # each parser below makes its field's type
    _check_together(settings, given)
    return settings


def _default_engine(docker_socket: str) -> EngineSpec:
    try:
        if stat.S_ISSOCK(Path(docker_socket).stat().st_mode):
            return EngineSpec("docker", docker_socket)
    except OSError:
        pass
    return EngineSpec("none")


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
        if key not in FILE_KEYS:
            raise SettingsError(f"{path}: unknown key {key!r}{_nearest(key, FILE_KEYS)}")
    return {key: _Given(value, f"{path}: {key}") for key, value in table.items()}


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _parse(name: str, given: _Given) -> object:
    try:
        return _PARSERS[name](given.value)
    except ValueError as error:
        raise SettingsError(f"{given.where}: {error}") from error


def _check_together(settings: Settings, given: Mapping[str, _Given]) -> None:
    if settings.beacon and settings.port == settings.beacon_port:
        where = (given.get("beacon_port") or given["port"]).where
        raise SettingsError(f"{where}: port and beacon port are both {settings.port}")
    if settings.advertise and ":" in settings.advertise and ":" not in settings.bind:
        raise SettingsError(
            f"{given['advertise'].where}: {settings.advertise} is IPv6, "
            f"but the agent listens on IPv4 only ({settings.bind})"
        )


# The parsers: each takes what the command line or the environment (text) or the file (TOML's
# types) gave and raises ValueError with the rest of a sentence that began with where it stood.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _path(value: object) -> Path:
    text = _text(value)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text).expanduser().absolute()


def _socket_path(value: object) -> Path:
    path = _path(value)
    size = len(str(path).encode())
    if size > SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"{str(path)!r} has {size} bytes, a unix socket's path at most {SOCKET_PATH_BYTES_MAX}"
        )
    return path


def _name(value: object) -> str:
    text = _text(value)
    if not text or not text.isprintable() or any(char.isspace() for char in text):
        raise ValueError(f"{text!r} is not a name (printable characters without spaces)")
    if len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"a name has at most {NAME_BYTES_MAX} bytes, not {len(text.encode())}")
    return text


def _port(value: object) -> int:
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 65535:
        raise ValueError(f"{_shown(value)} is not a port (1 to 65535)")
    return number


def _ip(value: object) -> str:
    text = _text(value)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which other hosts cannot use")
    return str(address)


def _reachable_ip(value: object) -> str:
    text = _ip(value)
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast or text == "255.255.255.255":
        raise ValueError(f"{text} is not an address of one host")
    return text


def _join_address(value: object) -> tuple[str, int | None]:
    """Read ``IP``, ``IPv4:PORT`` or ``[IPv6]:PORT``."""
    text = _text(value).strip()
    host, port = text, None
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        ip = _reachable_ip(host)
    except ValueError as error:
        hint = "; for a name there is --dns" if _is_dns_name(host) else ""
        raise ValueError(f"{error}{hint}") from None
    return ip, None if port is None else _port(port)


def _is_dns_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return (
        len(text) <= DNS_NAME_CHARS_MAX
        and all(
            len(label) <= DNS_LABEL_CHARS_MAX and _DNS_LABEL.fullmatch(label) for label in labels
        )
        and not labels[-1].isdigit()  # 10.0.0.1 is no name, and neither is 10.0.0
    )


def _dns_name(value: object) -> str:
    text = _text(value).strip()
    if not _is_dns_name(text):
        raise ValueError(f"{text!r} is not a DNS name")
    return text.removesuffix(".").lower()


def _many(parse: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    def parse_many(value: object) -> tuple[_T, ...]:
        if isinstance(value, str):
            items: list[object] = [item.strip() for item in value.split(",") if item.strip()]
        elif isinstance(value, list | tuple):
            items = list(value)
        else:
            raise ValueError(f"{_shown(value)} is not a list of texts")
        if len(items) > SOURCES_MAX:
            raise ValueError(f"has {len(items)} entries, at most {SOURCES_MAX} are allowed")
        return tuple(dict.fromkeys(parse(item) for item in items))

    return parse_many


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in _YES + _NO:
        raise ValueError(f"{_shown(value)} is neither true nor false")
    return text in _YES


def _engine(value: object) -> EngineSpec:
    text = _text(value)
    if text == "none":
        return EngineSpec("none")
    if text.startswith("docker://") and text.startswith("/", 9):
        return EngineSpec("docker", text[9:])
    if text.startswith("oci:") and not text.startswith("oci://") and text[4:]:
        return EngineSpec("oci", str(_path(text[4:])))
    raise ValueError(
        f"{text!r} is not an engine (docker:///path/to/docker.sock, oci:/path/to/layout or none)"
    )


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def parse_word(value: object) -> str:
        text = value.lower() if isinstance(value, str) else ""
        if text not in words:
            raise ValueError(f"{_shown(value)} is none of {', '.join(words)}")
        return text

    return parse_word


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value.isalnum() else repr(value)


_PARSERS: Final[Mapping[str, Callable[[object], object]]] = {
    "config_dir": _path,
    "data_dir": _path,
    "socket": _socket_path,
    "cluster": _name,
    "name": _name,
    "bind": _ip,
    "advertise": _reachable_ip,
    "port": _port,
    "beacon_port": _port,
    "join": _many(_join_address),
    "dns": _many(_dns_name),
    "beacon": _switch,
    "engine": _engine,
    "log_level": _one_of(get_args(LogLevel)),
    "log_format": _one_of(get_args(LogFormat)),
}
