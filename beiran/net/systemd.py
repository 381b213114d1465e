"""Report the agent's state to systemd, as sd_notify(3) describes it, without a library."""

import os
import socket


def notify(state: str) -> bool:
    """Send ``state`` to the service manager, if it asks for it with ``NOTIFY_SOCKET``.

    Args:
      state: assignments, one a line: ``READY=1``, ``STOPPING=1``, ``STATUS=3 nodes online``.

    Returns: whether it was sent. Never raises and never waits: a service manager that does not
    listen is no reason to fail.
    Source: sd_notify(3).
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False  # not under systemd, or a kind of socket (vsock) that only machines have
    # "@" stands for the null byte that starts a name in the abstract namespace, unix(7).
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), address)
    except OSError:
        return False
    return True
