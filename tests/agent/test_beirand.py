"""``beirand`` as a process: first start, bad surroundings, signals, restart."""

import signal
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from beiran.api.models import Node
from beiran.gossip.codec import Codec
from beiran.gossip.messages import Nack
from beiran.ids import NodeId
from tests.agent.processes import Beirand, free_port


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def test_the_first_start_makes_uuid_and_database(tmp_path: Path) -> None:
    agent = Beirand(tmp_path, name="first")
    with agent.running() as client:
        info = client.get_info()
        assert info.name == "first"
        assert info.cluster == "default"
        assert info.uuid == str(uuid.UUID((tmp_path / "config/node.uuid").read_text().strip()))
        assert (tmp_path / "data/beiran.db").exists()
        assert [node.uuid for node in client.get_online_nodes()] == [info.uuid]


def test_a_restart_keeps_the_uuid_and_raises_the_generation(tmp_path: Path) -> None:
    agent = Beirand(tmp_path)
    with agent.running() as client:
        before = client.get_info()
        assert agent.stop() == 0
    with agent.running() as client:
        after = client.get_info()
    assert after.uuid == before.uuid
    assert after.generation > before.generation


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_leaves_no_socket(tmp_path: Path, number: int) -> None:
    agent = Beirand(tmp_path)
    with agent.running():
        assert agent.stop(number) == 0
    assert not (tmp_path / "beiran.sock").exists()
    assert not list((tmp_path / "data").glob("*-wal"))


def test_two_agents_find_each_other_and_one_leaves(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = Beirand(tmp_path / "a", name="one", beacon_port=port)
    two = Beirand(tmp_path / "b", name="two", beacon_port=port)
    with one.running() as client, two.running():
        wait_for(lambda: {n.name for n in client.get_online_nodes()} == {"one", "two"})
        wait_for(lambda: all(n.version for n in client.get_online_nodes()))
        assert two.stop() == 0
        wait_for(lambda: {n.name for n in client.get_online_nodes()} == {"one"})
        (left,) = [n for n in client.get_known_nodes() if n.name == "two"]
        assert left.state == "left"
        assert not left.online


def test_a_killed_agent_is_offline_soon(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = Beirand(tmp_path / "a", name="one", beacon_port=port)
    two = Beirand(tmp_path / "b", name="two", beacon_port=port)
    with one.running() as client, two.running():
        wait_for(lambda: len(client.get_online_nodes()) == 2)
        assert two.process is not None
        two.process.kill()
        wait_for(lambda: len(client.get_online_nodes()) == 1)


def test_agents_meet_by_address_without_beacons(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = Beirand(tmp_path / "a", name="one")
    two = Beirand(tmp_path / "b", name="two", join=f"127.0.0.1:{one.port}")
    with one.running() as client, two.running():
        wait_for(lambda: len(client.get_online_nodes()) == 2)


def test_another_cluster_is_not_joined_and_counted(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = Beirand(tmp_path / "a", name="one", beacon_port=port)
    two = Beirand(tmp_path / "b", name="two", beacon_port=port, cluster="another")
    with one.running() as client, two.running():
        wait_for(lambda: client.get_info().counters["other_cluster_packets"] > 0)
        assert len(client.get_known_nodes()) == 1


def test_garbage_on_the_udp_port_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    agent = Beirand(tmp_path)
    with agent.running() as client:

        def nodes() -> list[Node]:
            # It may still be writing down its own start.
            return [replace(node, last_seen_at=None) for node in client.get_known_nodes()]

        before = nodes()
        ours = Codec("default").encode_datagram(Nack(1, NodeId(b"N" * 16)))
        for data in (
            b"",
            b"\0",
            b"GET / HTTP/1.1\r\n\r\n",
            ours[:-1],
            ours + b"\0" * 1400,
        ):
            agent.send_datagram(data)
        wait_for(lambda: client.get_info().counters["bad_packets"] == 5)
        assert nodes() == before


def refuse(agent: Beirand) -> str:
    """Start it; the one line that it ends with."""
    ended = agent.run_to_its_end()
    assert ended.returncode == 1, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("beirand: ")]
    assert len(lines) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return lines[0]


def test_a_tcp_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refuse(Beirand(tmp_path, port=port))
    assert str(port) in line
    assert "--port" in line


def test_a_udp_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert str(port) in refuse(Beirand(tmp_path, port=port))


def test_a_second_agent_on_one_socket_is_refused(tmp_path: Path) -> None:
    agent = Beirand(tmp_path)
    with agent.running():
        (tmp_path / "b").mkdir()
        other = Beirand(tmp_path / "b", socket=tmp_path / "beiran.sock")
        assert "beiran.sock" in refuse(other)


def test_a_corrupt_uuid_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/node.uuid").write_text("not a uuid\n")
    assert "node.uuid" in refuse(Beirand(tmp_path))
    assert (tmp_path / "config/node.uuid").read_text() == "not a uuid\n"


def test_a_corrupt_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/beiran.db").write_bytes(b"this is no database" * 1000)
    assert "beiran.db" in refuse(Beirand(tmp_path))
    assert (tmp_path / "data/beiran.db").read_bytes() == b"this is no database" * 1000


def test_a_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert str(tmp_path / "data") in refuse(Beirand(tmp_path))


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/beiran.toml").write_text("prot = 8888\n")
    ended = Beirand(tmp_path).run_to_its_end()
    assert ended.returncode == 2
    assert "beiran.toml" in ended.stderr
    assert "'prot'; did you mean 'port'?" in ended.stderr


def test_a_database_from_a_newer_release_is_refused_and_unchanged(tmp_path: Path) -> None:
    agent = Beirand(tmp_path)
    with agent.running():
        agent.stop()
    path = tmp_path / "data/beiran.db"
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " SELECT migration_set, 'm999_from_the_future', applied_at FROM _sqlite_migrations"
            " LIMIT 1"
        )
    db.close()
    assert "newer" in refuse(agent)


def test_the_database_deleted_while_down_comes_back(tmp_path: Path) -> None:
    agent = Beirand(tmp_path)
    with agent.running() as client:
        before = client.get_info()
        agent.stop()
    (tmp_path / "data/beiran.db").unlink()
    with agent.running() as client:
        after = client.get_info()
    assert after.uuid == before.uuid
    assert after.generation >= before.generation


def test_the_listing_follows_an_engine_that_comes_later(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    agent = Beirand(tmp_path, engine=f"oci:{folder}")
    with agent.running() as client:
        (own,) = client.get_online_nodes()
        assert own.engine is not None
        assert not own.engine.up
        assert client.get_info().problems
        folder.mkdir()
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (folder / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
        wait_for(
            lambda: all(n.engine is not None and n.engine.up for n in client.get_online_nodes())
        )
        assert not client.get_info().problems


def test_log_names_the_engine_or_says_that_there_is_none(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    for engine, line in (
        ("none", "no engine: this node holds no images of its own\n"),
        (f"oci:{layout}", f"engine is up: oci 1.0.0 {layout}\n"),
    ):
        agent = Beirand(tmp_path / engine[:3], engine=engine)
        agent.folder.mkdir()
        with agent.running():
            log = agent.folder / "log"
            wait_for(partial(_says, log, line))


def _says(log: Path, line: str) -> bool:
    return line in log.read_text()
