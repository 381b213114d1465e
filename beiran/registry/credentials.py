"""Finds credentials for registries: in the settings, else where ``docker login`` stored them.

Docker's ``config.json`` has credentials in ``auths``, or names a credential helper that has them:
``credHelpers`` for one registry, ``credsStore`` for all. The Docker SDK reads ``auths``. This
module runs a helper itself, as ``docker-credential-NAME get`` with the registry on its standard
input: the SDK sets no timeout for a helper, and drops the output of one that fails.

The registry client asks ``CredentialStore`` when a registry answers with a challenge.

Source: docker CLI, ``cli/config`` (the file, ``ConvertToHostname``) and docker-credential-helpers.
"""

import base64
import json
import logging
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio
from msgspec import Struct

from beiran.oci.references import DOCKER_HUB
from beiran.settings.settings import OriginSettings

CONFIG_BYTES_MAX: Final = 1024 * 1024
"""A login takes some hundred bytes. The limit bounds memory; chosen, not measured."""
HELPER_TIMEOUT_S: Final = 5.0
"""A keychain answers within 0.1 s. A locked one may wait for its user, and must not block a pull.
Chosen, not measured."""
HELPER_ANSWER_BYTES_MAX: Final = 256 * 1024
"""A token takes a few KiB. The limit bounds what is parsed; chosen, not measured."""
KEPT_S: Final = 60.0
"""How long an answer is cached. It saves the 0.1 s of a helper for each request, and delays the
effect of a new login by at most a minute. Chosen, not measured."""

HUB_KEY: Final = "https://index.docker.io/v1/"  # the docker CLI's key for Docker Hub
TOKEN_USER: Final = "<token>"
"""The user name by which a helper marks its secret as an identity token."""

_HELPER_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
_NOT_FOUND: Final = "credentials not found"
_log: Final = logging.getLogger(__name__)


class Credentials(Struct, frozen=True):
    """A user and a password, or an identity token that is exchanged for registry tokens."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, ***)"

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header. RFC 7617."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


class CredentialStore:
    """This host's credentials for each registry: from the settings, else from Docker's file.

    Args:
      origins: the settings of registries, by name.
      docker_config: the path of Docker's ``config.json``; the file may be missing. None: unused.
    """

    def __init__(
        self,
        origins: Mapping[str, OriginSettings],
        docker_config: Path | None,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._origins: Final = origins
        self._docker_config: Final = docker_config
        self._clock: Final = clock
        self._known: dict[str, tuple[float, Credentials | None]] = {}
        self._logged: set[str] = set()

    async def find(self, registry: str) -> Credentials | None:
        """Find the credentials for a registry. With None, the caller sends requests without any.

        A problem with the file or a helper is logged once, and the answer is None.
        """
        own = self._origins.get(registry)
        if own is not None and own.username:
            return Credentials(own.username, own.password)
        if self._docker_config is None:
            return None
        registry = self._docker_name(registry)
        found_at, found = self._known.get(registry, (float("-inf"), None))
        if self._clock() - found_at < KEPT_S:
            return found
        try:
            found = await self._from_docker(self._docker_config, registry)
        except _Unusable as error:
            found = None
            if str(error) not in self._logged:
                self._logged.add(str(error))
                _log.warning("%s; %s is asked without credentials", error, registry)
        self._known[registry] = (self._clock(), found)
        return found

    def forget(self, registry: str) -> None:
        """Drop the cached answer, because the registry refused it. The next call looks again."""
        self._known.pop(self._docker_name(registry), None)

    def _docker_name(self, registry: str) -> str:
        """The registry under which Docker stores the credentials: the host of ``url`` if set."""
        own = self._origins.get(registry)
        if own is None or not own.url:
            return registry
        return _host_of(own.url)

    async def _from_docker(self, path: Path, registry: str) -> Credentials | None:
        config = await trio.to_thread.run_sync(_read_config, path)
        helpers = config.get("credHelpers")
        helper = None
        if isinstance(helpers, dict):
            helper = next((helpers[key] for key in helpers if _host_of(key) == registry), None)
        helper = helper or config.get("credsStore")
        if isinstance(helper, str) and helper:
            found = await _ask_helper(helper, registry)
            if found is not None:
                return found
        auths = config.get("auths")
        if not isinstance(auths, dict):
            return None
        for key in sorted(auths, key=lambda key: key != _key_of(registry)):
            if _host_of(key) == registry and isinstance(auths[key], dict):
                return await trio.to_thread.run_sync(_from_entry, path, key, auths[key])
        return None


class _Unusable(Exception):
    """The file or a helper cannot be used. The message is one line."""


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _Unusable(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise _Unusable(f"{path}: larger than {CONFIG_BYTES_MAX} bytes")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise _Unusable(f"{path}: not JSON") from None
    if not isinstance(config, dict):
        raise _Unusable(f"{path}: not a JSON object")
    return config


def _key_of(registry: str) -> str:
    return HUB_KEY if registry == DOCKER_HUB else registry


def _host_of(key: str) -> str:
    """The registry of a key of ``auths``. Old versions of Docker wrote URLs as keys."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host


def _from_entry(path: Path, key: str, entry: Mapping[str, Any]) -> Credentials | None:
    """Read the credentials of an entry of ``auths``. Blocks. Raises: _Unusable."""
    # Imported here to save memory: an agent loads the SDK only if the host has a config.json.
    from docker import auth

    try:
        found = auth.parse_auth({key: {name: value for name, value in entry.items() if value}})[key]
    except (ValueError, TypeError, AttributeError):  # the SDK does not check types before it splits
        raise _Unusable(f"{path}: auths: {key}: not USER:PASSWORD in base64") from None
    if token := found.get("IdentityToken"):
        return Credentials(identity_token=str(token))
    # Where "auth" is missing, the docker CLI reads "username" and "password".
    user, password = (found.get(name) or entry.get(name) for name in ("username", "password"))
    if isinstance(user, str) and user and isinstance(password, str):
        return Credentials(user, password.rstrip("\0"))
    return None  # "{}": docker login stored the credentials in a helper


async def _ask_helper(name: str, registry: str) -> Credentials | None:
    """Run a credential helper. Returns None if it has no credentials. Raises: _Unusable."""
    if not _HELPER_NAME.fullmatch(name):
        raise _Unusable(f"{name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        with trio.fail_after(HELPER_TIMEOUT_S):
            ended = await trio.run_process(
                [program, "get"],
                stdin=_key_of(registry).encode() + b"\n",
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    except trio.TooSlowError:
        raise _Unusable(f"{program} gives no answer within {HELPER_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise _Unusable(f"{program} cannot be run: {error.strerror}") from None
    if ended.returncode != 0:
        # A helper prints the reason on its standard output. "Not found" is the usual one.
        if _NOT_FOUND in ended.stdout[:1024].decode(errors="replace"):
            return None
        raise _Unusable(f"{program} failed with exit code {ended.returncode}")
    try:
        answer = json.loads(ended.stdout[:HELPER_ANSWER_BYTES_MAX])
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _Unusable(f"{program} answers what is not a credential") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise _Unusable(f"{program} answers what is not a credential")
    return Credentials(identity_token=secret) if user == TOKEN_USER else Credentials(user, secret)
