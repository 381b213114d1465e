"""Open the sockets that an agent listens on: TCP, the mirror's on loopback, and the unix socket.

``agent/agent.py`` opens them, and ``server.py`` serves them.
"""

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from beiran.errors import LocalError

BACKLOG: Final = 1024  # as CONNECTIONS_MAX of the TCP listener
UNIX_MODE: Final = 0o660  # as Docker's socket: the owner and the group may ask

# TCP closes a connection to a host that died without a FIN after KEEPALIVE_IDLE_S +
# KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_S = 180 s. Accepted sockets inherit this (tcp(7)). Chosen:
# WATCHERS_MAX such connections are few, so that quicker probes are not worth their packets.
KEEPALIVE_IDLE_S: Final = 120
KEEPALIVE_INTERVAL_S: Final = 20
KEEPALIVE_PROBES: Final = 3


async def open_tcp_listeners(
    host: str, port: int, *, option: str = "--port"
) -> list[trio.SocketListener]:
    """Listen on ``host`` (an IPv4 or IPv6 address) and ``port``; ``::`` takes IPv4 as well.

    Args:
      option: the option that sets another port, for the error.

    Raises: LocalError, one line that says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        await listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _tcp_error(host, port, option, error) from None
    except BaseException:
        listener.close()
        raise
    return [trio.SocketListener(listener)]


def _tcp_error(host: str, port: int, option: str, error: OSError) -> LocalError:
    if error.errno == errno.EADDRINUSE:
        return LocalError(
            f"port {port} is in use on {host}: stop what listens there (another agent?), "
            f"or choose another port with {option}"
        )
    if error.errno == errno.EACCES:
        return LocalError(f"this user may not use port {port}: choose one above 1023 with {option}")
    if error.errno == errno.EADDRNOTAVAIL:
        return LocalError(f"no interface of this host has the address {host}: see --bind")
    return LocalError(f"cannot listen on {host} port {port}: {error.strerror}")


@asynccontextmanager
async def open_unix_listener(
    path: str | Path, mode: int = UNIX_MODE
) -> AsyncIterator[trio.SocketListener]:
    """Listen on a unix socket at ``path``, with these permissions, until the context is left.

    It makes the folder, replaces a socket that a dead agent left, and removes its own at the end.

    Raises: LocalError, one line, when an agent answers there, when a file that is no socket has
    that name, or when the system refuses.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path)
        listener = _bind(path, mode)
        own = path.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason += "; run beirand as root, or choose another socket with --socket"
        raise LocalError(f"cannot listen on the socket {path}: {reason}") from None
    try:
        yield trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    finally:
        listener.close()
        with suppress(FileNotFoundError):
            now = path.stat()
            if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
                path.unlink()


def _make_room(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise LocalError(f"{path} exists and is no socket: choose another path with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # connecting to a unix socket never takes time (unix(7))
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass  # a program listens, and its backlog is full
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise LocalError(
        f"an agent answers at {path} already: stop it, or choose another socket with --socket"
    )


def _bind(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777)  # no process may connect before the permissions are set
    try:
        listener.bind(str(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    try:
        path.chmod(mode)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        path.unlink(missing_ok=True)
        raise
    return listener
