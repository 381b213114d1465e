"""systemd's side of the notification is a real unix datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from beiran.net.systemd import notify


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        yield sock


def test_the_state_reaches_the_socket_that_systemd_named(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    listener.bind(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert notify("READY=1\nSTATUS=3 nodes online")
    assert listener.recv(4096) == b"READY=1\nSTATUS=3 nodes online"


def test_a_name_in_the_abstract_namespace_starts_with_an_at_sign(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"beiran-test-notify-{os.getpid()}"
    listener.bind("\0" + name)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    assert notify("STOPPING=1")
    assert listener.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("path", [None, "", "vsock:2:1234", "relative"])
def test_nothing_is_sent_where_systemd_did_not_start_us(
    path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not notify("READY=1")


def test_a_service_manager_that_does_not_read_is_ignored(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    assert not notify("READY=1")
    path = str(tmp_path / "full")
    listener.bind(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    sent = 0
    while notify("STATUS=again"):
        sent += 1
    assert sent > 0
