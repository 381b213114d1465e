"""Where a Docker Engine is, in the forms that Docker's own tools take.

The path of a unix socket, ``tcp://`` with or without TLS, ``ssh://``, and ``context:NAME`` for a
context of ``docker context``. ``docker_client`` opens its connections through here.

Source: docker CLI, ``cli/context/docker/load.go``; Docker SDK, ``docker.utils.kwargs_from_env``
(``DOCKER_TLS_VERIFY``, ``DOCKER_CERT_PATH``).
"""

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import docker
import msgspec
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from beiran.errors import EngineUnavailable

try:
    from paramiko import SSHException

    HAS_SSH = True
except ImportError:  # the extra "ssh" is not installed
    SSHException = DockerException
    HAS_SSH = False

__all__ = ["Endpoint", "SSHException", "find_endpoint"]


class _DockerEndpoint(msgspec.Struct):
    host: str = msgspec.field(name="Host")
    skip_verify: bool = msgspec.field(name="SkipTLSVerify", default=False)


class _Endpoints(msgspec.Struct):
    docker: _DockerEndpoint


class _Context(msgspec.Struct):
    """What ``meta.json`` of a context holds. Source: docker CLI, ``cli/context/store``."""

    endpoints: _Endpoints = msgspec.field(name="Endpoints")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address with the TLS material that belongs to it.

    Attributes:
      url: ``unix://``, ``tcp://`` or ``ssh://``.
      tls: None for a plain connection.
    """

    url: str
    tls: TLSConfig | None = None

    @property
    def is_on_this_host(self) -> bool:
        """Whether the engine's files may be read here.

        Only a unix socket says so. At the end of ``tcp://`` or ``ssh://`` is another host, or a
        tunnel to one, whose data root has the same path as that of an engine here.
        """
        return self.url.startswith("unix://")

    def open(self, *, version: str, timeout_s: float | None) -> docker.APIClient:
        """A client of the Docker SDK. Blocks over SSH, where it connects at once.

        Args:
          version: of the API.
          timeout_s: for a connection, and between two reads; None waits for ever.

        Raises: DockerException, OSError, and what paramiko raises.
        """
        if self.url.startswith("ssh://") and not HAS_SSH:
            raise DockerException("ssh:// needs paramiko: pip install 'beiran[ssh]'")
        if self.is_on_this_host:
            # The SDK leaves a socket that cannot connect to the garbage collector, and an engine
            # that is away is asked every few seconds.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(self.url.removeprefix("unix://"))
        # None, which typeshed does not know, is what the SDK itself gives to endless requests.
        client = docker.APIClient(
            self.url,
            version=version,
            timeout=timeout_s,  # type: ignore[arg-type]
            tls=self.tls or False,
        )
        # Looking up proxies and .netrc takes a third of the time of an inspect, and requests would
        # take REQUESTS_CA_BUNDLE instead of the engine's own authority.
        client.trust_env = False
        return client


def find_endpoint(address: str) -> Endpoint:
    """What an address means now: contexts and certificates may change while the agent runs.

    Blocks. Raises: EngineUnavailable that names the address.
    """
    try:
        if address.startswith("/"):
            return Endpoint(f"unix://{address}")
        if address.startswith("context:"):
            return _of_context(address.removeprefix("context:"))
        if address.startswith("ssh://"):
            return Endpoint(address)
        return Endpoint(address, kwargs_from_env({**os.environ, "DOCKER_HOST": address}).get("tls"))
    except DockerException as error:
        raise EngineUnavailable(f"Docker at {address}: {error}") from None


def _of_context(name: str) -> Endpoint:
    if name == "default":
        return Endpoint(DEFAULT_UNIX_SOCKET.removeprefix("http+"))
    # Not docker.context: the SDK finds contexts only beside a config.json, which
    # ``docker context create`` does not make, and needs a client's certificate for any TLS.
    config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    key = hashlib.sha256(name.encode()).hexdigest()
    file = config / "contexts" / "meta" / key / "meta.json"
    try:
        described = msgspec.json.decode(file.read_bytes(), type=_Context).endpoints.docker
    except FileNotFoundError:
        raise DockerException(
            f"there is no such context in {config}/contexts (docker context ls)"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise DockerException(f"{file}: {error}") from None
    tls_folder = config / "contexts" / "tls" / key / "docker"
    ca, cert, private_key = (tls_folder / f"{it}.pem" for it in ("ca", "cert", "key"))
    if not (ca.exists() or cert.exists() or described.skip_verify):
        return Endpoint(described.host)
    return Endpoint(
        described.host,
        TLSConfig(
            client_cert=(str(cert), str(private_key)) if cert.exists() else None,
            ca_cert=str(ca) if ca.exists() else None,
            verify=not described.skip_verify,
        ),
    )
