"""The types of settings, and the parser of each from a string or from TOML's types."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Generic, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import urlsplit

from msgspec import Struct

from beiran.oci.references import DOCKER_HUB, full_repository, registry_name

NAME_BYTES_MAX: Final = 255  # a name is one length byte on the wire
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of unix(7) has 108, the last a NUL
DNS_LABEL_CHARS_MAX: Final = 63  # RFC 1035 §2.3.4
DNS_NAME_CHARS_MAX: Final = 253  # RFC 1035 §2.3.4: 255 octets with length bytes and root
SOURCES_MAX: Final = 1000  # entries of an array; as many as there may be hosts
TAG_TTL_S_MAX: Final = 7 * 24 * 3600  # a week; a tag that is older misleads
SIZE_BYTES_MAX: Final = 2**60  # 1 EiB; fits SQLite's and the kernel's signed 64 bits
AT_ONCE_MAX: Final = 10_000  # more transfers than file descriptors is a slip of the pen
CREDENTIAL_CHARS_MAX: Final = 64 * 1024  # tokens of cloud registries have 2,000 to 5,000

_T = TypeVar("_T")

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
OfflineTags = Literal["allow", "deny"]

_DNS_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")
_SIZE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(?:([kmgt])(i)?)?b?", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_AT_ONCE: Final = re.compile(r"([0-9]{1,5})x")
_REMOTE_ENGINE: Final = re.compile(
    r"(?:tcp://[^/\s]+:[0-9]+/?|ssh://[^/\s]+|context:[a-zA-Z0-9][a-zA-Z0-9_.+-]+)"
)  # docker CLI, cli/context/store/store.go for the names of contexts
_REPOSITORY_PATTERN: Final = re.compile(r"[a-zA-Z0-9._:/*-]{1,255}")


class HostPort(NamedTuple):
    """An agent's IP address in canonical form, and its port."""

    host: str
    port: int


class EngineSpec(Struct, frozen=True):
    """Which engine to watch.

    ``path`` is the layout folder (``oci``) or empty (``none``). For ``docker`` it is the path of
    Docker's socket, ``tcp://HOST:PORT``, ``ssh://HOST`` or ``context:NAME``.
    """

    kind: Literal["docker", "oci", "none"]
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "docker":
            return f"docker://{self.path}" if self.path.startswith("/") else self.path
        return f"oci:{self.path}" if self.kind == "oci" else "none"


class OriginSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach a registry, where its name alone does not say it.

    Attributes:
      url: ``https://HOST[:PORT]``, with a path where the repositories have a prefix there
        (``https://cache.example/hub`` has ``library/busybox`` as ``hub/library/busybox``); empty
        for the host in the registry's name.
      username: with ``password``, in place of Docker's configuration.
      ca: file of further certificates (PEM) that may sign the registry's, besides the system's.
      plain_http: no TLS; only where ``url`` is empty.
    """

    url: str = ""
    username: str = ""
    password: str = ""
    ca: Path | None = None
    plain_http: bool = False

    def __repr__(self) -> str:
        secret = "***" if self.password else ""
        return f"OriginSettings({self.url!r}, {self.username!r}, {secret!r}, {self.ca!r})"


class Limit(Struct, frozen=True):
    """The most bytes per second and transfers at once. None is no limit."""

    bytes_per_s: int | None = None
    at_once: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.bytes_per_s is not None:
            parts.append(f"{self.bytes_per_s}B")
        if self.at_once is not None:
            parts.append(f"{self.at_once}x")
        return ",".join(parts) or "none"


# A parser takes a value of the command line or the environment (a string) or of the file (TOML's
# types). It raises ValueError with the rest of a sentence that begins with the value's place.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
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
        raise ValueError(f"{shown(value)} is not a port (1 to 65535)")
    return number


def _port_or_none(value: object) -> int:
    return 0 if value in (0, "0") and value is not False else _port(value)


def _ip(value: object) -> str:
    text = _text(value)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which means nothing on other hosts")
    return str(address)


def _reachable_ip(value: object) -> str:
    text = _ip(value)
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast or text == "255.255.255.255":
        raise ValueError(f"{text} is not the address of one host")
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


class _Many(Generic[_T]):
    """Parses an array, or a comma-separated string of the environment. Duplicates are dropped."""

    def __init__(self, parse: Callable[[object], _T]) -> None:
        self._parse = parse

    def __call__(self, value: object) -> tuple[_T, ...]:
        if isinstance(value, str):
            items: list[object] = [item.strip() for item in value.split(",") if item.strip()]
        elif isinstance(value, list | tuple):
            items = list(value)
        else:
            raise ValueError(f"{shown(value)} is not an array of strings")
        if len(items) > SOURCES_MAX:
            raise ValueError(f"has {len(items)} entries, at most {SOURCES_MAX} are allowed")
        return tuple(dict.fromkeys(self._parse(item) for item in items))


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in _YES + _NO:
        raise ValueError(f"{shown(value)} is neither true nor false")
    return text in _YES


def _engine(value: object) -> EngineSpec:
    text = _text(value)
    if text == "none":
        return EngineSpec("none")
    socket_path = text.removeprefix("docker://" if text.startswith("docker:") else "unix://")
    if socket_path != text and socket_path.startswith("/"):
        return EngineSpec("docker", socket_path)
    if _REMOTE_ENGINE.fullmatch(text):
        return EngineSpec("docker", text)
    if text.startswith("oci:") and not text.startswith("oci://") and text[4:]:
        return EngineSpec("oci", str(_path(text[4:])))
    raise ValueError(
        f"{text!r} is not an engine (docker:///path/to/docker.sock, tcp://HOST:PORT, ssh://HOST, "
        "context:NAME, oci:/path/to/layout or none)"
    )


def _http_url(value: object) -> str:
    text = _text(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is not a URL (https://HOST or http://HOST:PORT)")
    if parts.username is not None:
        raise ValueError("a URL has no credentials; they go into [origins.NAME]")
    if parts.query or parts.fragment:
        raise ValueError(f"{text!r} has a query; a registry's address has none")
    return text


def _origin(value: object) -> str:
    name, equals, url = _text(value).strip().partition("=")
    if not equals:
        raise ValueError(f"{name!r} is not an origin (NAME=URL, docker.io=https://cache.example)")
    return f"{registry_name(name)}={_http_url(url)}"


def _size(value: object) -> int:
    """Read ``500MB``, ``2GiB``, ``1.5 GB`` or a number of bytes."""
    found = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) else None
    if not found or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not a size (20GB, 500MB, 2GiB)")
    unit = 1024 if found[3] else 1000
    size_bytes = int(float(found[1]) * unit ** _POWERS[(found[2] or "").lower()])
    if not 1 <= size_bytes <= SIZE_BYTES_MAX:
        raise ValueError(f"{shown(value)} is not a size between 1 byte and 1 EiB")
    return size_bytes


def _limit(value: object) -> Limit:
    """Read ``50MB`` (per second), ``8x`` (at once), both with a comma, or ``none``."""
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    bytes_per_s = at_once = None
    for part in [] if text == "none" else text.split(","):
        part = part.strip()
        counted = _AT_ONCE.fullmatch(part)
        if counted and at_once is None and 1 <= int(counted[1]) <= AT_ONCE_MAX:
            at_once = int(counted[1])
        elif not counted and _SIZE.fullmatch(part.removesuffix("/s")) and bytes_per_s is None:
            bytes_per_s = _size(part.removesuffix("/s"))
        else:
            raise ValueError(
                f"{shown(value)} is not a limit (50MB a second, 8x at once, 50MB,8x or none)"
            )
    return Limit(bytes_per_s, at_once)


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else -1.0
    except ValueError:
        seconds = -1.0
    if isinstance(value, bool) or not 0 <= seconds <= TAG_TTL_S_MAX:
        raise ValueError(f"{shown(value)} is not a number of seconds (0 to {TAG_TTL_S_MAX})")
    return seconds


def _repository_pattern(value: object) -> str:
    """A repository's name in full, or ``*`` in it; ``all`` is ``*``."""
    text = _text(value).strip()
    if text in ("all", "*"):
        return "*"
    if not _REPOSITORY_PATTERN.fullmatch(text):
        raise ValueError(f"{text!r} is not a repository (docker.io/library/*, quay.io/a/b) or all")
    if "*" in text:
        first, slash, _ = text.partition("/")
        if slash and ("." in first or ":" in first or "*" in first or first == "localhost"):
            return text
        return f"{DOCKER_HUB}/{text}"
    try:
        return "/".join(full_repository(text))
    except ValueError as error:
        raise ValueError(str(error)) from None


def _credential(value: object) -> str:
    text = _text(value)
    if not text or len(text) > CREDENTIAL_CHARS_MAX or "\0" in text or "\n" in text:
        raise ValueError(f"is empty, has several lines or over {CREDENTIAL_CHARS_MAX} characters")
    return text


def _as_it_is(value: object) -> object:
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def parse_word(value: object) -> str:
        text = value.lower() if isinstance(value, str) else ""
        if text not in words:
            raise ValueError(f"{shown(value)} is none of {', '.join(words)}")
        return text

    return parse_word


def shown(value: object) -> str:
    """``value`` as errors show it: in quotes unless it is a word or a number."""
    return value if isinstance(value, str) and value.isalnum() else repr(value)


PARSERS: Final[Mapping[str, Callable[[object], object]]] = {
    "config_dir": _path,
    "data_dir": _path,
    "socket": _socket_path,
    "cluster": _name,
    "name": _name,
    "bind": _ip,
    "advertise": _reachable_ip,
    "port": _port,
    "beacon_port": _port,
    "join": _Many(_join_address),
    "dns": _Many(_dns_name),
    "beacon": _switch,
    "engine": _engine,
    "mirror_port": _port_or_none,
    "origin": _Many(_origin),
    "docker_config": _path,
    "cache_bytes": _size,
    "tag_ttl": _seconds,
    "offline_tags": _one_of(get_args(OfflineTags)),
    "upload_limit": _limit,
    "download_limit": _limit,
    "origin_limit": _limit,
    "allow_prefetch": _Many(_repository_pattern),
    "log_level": _one_of(get_args(LogLevel)),
    "log_format": _one_of(get_args(LogFormat)),
    "origins": _as_it_is,  # settings._tables parses it, with the name of each registry
}
ARRAY_OPTIONS: Final = frozenset(
    name for name, parse in PARSERS.items() if isinstance(parse, _Many)
)
"""Options that are arrays in the file, and comma-separated in the environment."""

ORIGIN_PARSERS: Final[Mapping[str, Callable[[object], object]]] = {
    "url": _http_url,
    "username": _credential,
    "password": _credential,
    "ca": _path,
    "plain_http": _switch,
}
