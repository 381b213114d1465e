"""Where a Docker Engine is, in the forms that Docker's own tools take.

The path of a unix socket, ``tcp://`` with or without TLS, ``ssh://``, and ``context:NAME`` for a
context of ``docker context``. ``docker_client`` opens its connections through here.

Source: docker CLI, ``cli/context/docker/load.go``; Docker SDK, ``docker.utils.kwargs_from_env``
(``DOCKER_TLS_VERIFY``, ``DOCKER_CERT_PATH``) and ``docker.context``.
"""

import os
import socket
from dataclasses import dataclass

import docker
from docker.context import ContextAPI
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
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # the SDK raises bare Exception for a file that it cannot read
        raise DockerException(str(error)) from None
    if context is None or not context.Host:
        raise DockerException(
            "there is no such context beside config.json of Docker (docker context ls)"
        )
    url = context.Host.removeprefix("http+")
    return Endpoint(url, context.TLSConfig)
