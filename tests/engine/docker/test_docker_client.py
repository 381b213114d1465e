"""The Docker SDK over a real socket, with a server that answers what no sane engine would."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio

from beiran.engine.docker import docker_client
from beiran.engine.docker.docker_client import BadAnswer, DockerClient, open_client
from beiran.engine.docker.load import Entry, archive
from beiran.engine.interface import PullProgress
from beiran.errors import DataError, EngineRefused, EngineUnavailable, NotFound
from tests.engine.docker.stub_engine import StubEngine, answer, serving

LIST = "/images/json"
LOAD = "/images/load"
PULL = "/images/create"
EVENTS = "/events"
FILTERS = {"type": ["image"]}


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[tuple[StubEngine, DockerClient]]:
    async with serving(folder) as server, open_client(server.path) as client:
        yield server, client


async def test_connection_is_used_again(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LIST, answer(200, "[]"))
        await client.images()
        before = server.connections
        for _ in range(3):
            assert await client.images() == []
        assert server.connections == before


async def test_connection_that_was_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LIST, answer(200, "[]"))
        await client.images()
        before = server.connections
        await server.hang_up()
        assert await client.images() == []
        assert server.connections == before + 1


async def test_version_is_the_newest_that_both_speak(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        for offered, spoken in [("1.41", "v1.41"), ("1.99", "v1.51"), ("2.0", "v1.51")]:
            server.says("/version", answer(200, f'{{"ApiVersion": "{offered}", "Version": "7"}}'))
            server.says(LIST, answer(200, "[]"))
            async with open_client(server.path) as client:
                assert client.version == "7"
                assert await client.images() == []
            assert server.asked[-1] == f"/{spoken}{LIST}"


@pytest.mark.parametrize("version", ["{}", '{"ApiVersion": "1.3"}', '{"ApiVersion": 5}', "[]"])
async def test_engine_without_a_version_that_we_speak_is_unavailable(
    version: str, tmp_path: Path
) -> None:
    async with serving(tmp_path) as server:
        server.says("/version", answer(200, version))
        with pytest.raises(EngineUnavailable):
            async with open_client(server.path):
                raise AssertionError


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (answer(404, '{"message": "no such page"}'), BadAnswer, f"404 to {LIST}: no such page"),
        (answer(500, '{"message": "broken"}'), BadAnswer, f"500 to {LIST}: broken"),
        (answer(500, "<html>"), BadAnswer, f"500 to {LIST}: <html>"),
        (answer(500, "[]"), BadAnswer, "cannot be read"),
        (answer(200, "<html>"), BadAnswer, "cannot be read"),
        (answer(200, '[{"Id": 5}]'), BadAnswer, "cannot be read"),
        (b"", EngineUnavailable, "closed connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", EngineUnavailable, "ssh-2.0"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\n[",
            EngineUnavailable,
            "incompleteread",
        ),
    ],
)
async def test_bad_answer_is_an_error_that_names_it(
    reply: bytes, error: type[Exception], message: str, tmp_path: Path
) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LIST, reply)
        with pytest.raises(error, match=message):
            await client.images()


async def test_missing_image_is_not_found(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        with pytest.raises(NotFound, match="no such thing"):
            await client.inspect_image("host:5000/a/b@c d")
        assert server.asked[-1] == "/v1.41/images/host:5000/a/b%40c%20d/json"


async def test_answer_that_never_comes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "ANSWER_TIMEOUT_S", 0.2)
    async with asking(tmp_path) as (server, client):
        server.says(LIST, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        with pytest.raises(EngineUnavailable, match="no answer in 0 s"):
            await client.images()
        server.says(EVENTS, b"HTTP/1.1 100 Continue\r\n\r\n")
        with pytest.raises(EngineUnavailable, match="no answer in 0 s"):
            async with client.events(0, FILTERS):
                raise AssertionError
        for reply in (b"", answer(500, "{}")):
            server.says(EVENTS, reply)
            with pytest.raises(EngineUnavailable):
                async with client.events(0, FILTERS) as lines:
                    await anext(lines)


@pytest.mark.parametrize("path", ["missing", "x" * 200])
async def test_missing_socket_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"no such socket|too long"):
        async with open_client(str(tmp_path / path)):
            raise AssertionError


async def test_events_are_lines_and_end_when_the_listener_leaves(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        server.says(EVENTS, head + b"4\r\na\nb\n\r\n2\r\nc\n\r\n")
        with trio.fail_after(10):
            async with client.events(0, FILTERS) as lines:
                assert [await anext(lines) for _ in range(3)] == [b"a", b"b", b"c"]
                with trio.move_on_after(0.05):
                    await anext(lines)
            # The thread that waited for a line has ended with the connection.
            await server.await_closed()


async def test_line_without_an_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "LINE_BYTES_MAX", 10)
    async with asking(tmp_path) as (server, client):
        server.says(
            EVENTS, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n" + b"x" * 11
        )
        async with client.events(0, FILTERS) as lines:
            with pytest.raises(EngineUnavailable, match="line of over"):
                await anext(lines)


class Reader:
    """A blob that is given by a test."""

    file = None

    def __init__(self, *chunks: bytes | Exception, size_bytes: int) -> None:
        self._chunks = chunks
        self.size_bytes = size_bytes

    async def chunks(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
            await trio.lowlevel.checkpoint()


async def pull(server: StubEngine, client: DockerClient, *answers: bytes) -> list[PullProgress]:
    server.says(PULL, *answers)
    heard: list[PullProgress] = []
    await client.pull("127.0.0.1:1/a:1", None, heard.append)
    return heard


async def load(client: DockerClient, *entries: Entry) -> None:
    async with aclosing(archive(entries)) as pieces:
        await client.load(pieces)


async def test_progress_is_reported_in_dockers_words(tmp_path: Path) -> None:
    said = [
        '{"status": "Pulling from a", "id": "1"}',
        '{"status": "Downloading", "id": "0123456789ab",'
        ' "progressDetail": {"current": 5, "total": 9}}',
        '{"status": "Waiting", "id": "0123456789ab", "progressDetail": {}}',
        "",
        "what is this",
        '{"status": "Odd", "progressDetail": {"current": -5, "total": -1}, "new": [1]}',
    ]
    async with asking(tmp_path) as (server, client):
        assert await pull(server, client, answer(200, "\r\n".join(said) + "\r\n")) == [
            PullProgress("", "Pulling from a"),
            PullProgress("0123456789ab", "Downloading", 5, 9),
            PullProgress("0123456789ab", "Waiting"),
            PullProgress("", "Odd"),
        ]


@pytest.mark.parametrize(
    "reply",
    [
        answer(200, '{"error": "no\\nspace"}\n'),
        answer(200, '{"errorDetail": {"message": "no space"}}\n{"status": "more"}\n'),
        answer(200, '{"errorDetail": null, "progressDetail": null, "error": "no space"}\n'),
        answer(500, '{"message": "no space"}'),
        answer(404, '{"message": "no   space"}'),
        answer(409, '{"message": "no space"}'),
    ],
)
async def test_error_anywhere_is_a_refusal_of_one_line(reply: bytes, tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        with pytest.raises(EngineRefused, match=r"^Docker: no space$"):
            await pull(server, client, reply)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n",
        b"what\r\n\r\n",
    ],
)
async def test_engine_that_breaks_off_is_unavailable(reply: bytes, tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        with pytest.raises(EngineUnavailable):
            await pull(server, client, reply)


async def test_pull_carries_no_credentials_and_asks_no_helper_for_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    helpers = (
        '{"credsStore": "there-is-no-such-helper", "auths": {"127.0.0.1:1": {"auth": "YTpi"}}}'
    )
    (tmp_path / "config.json").write_text(helpers)
    async with asking(tmp_path) as (server, client):
        await pull(server, client, answer(200, "{}"))
        (header,) = [line for line in server.requests[-1].split(b"\r\n") if b"Registry" in line]
        assert header == b"X-Registry-Auth: e30="  # {}


async def test_pull_that_is_cancelled_hangs_up(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        heard = trio.Event()
        server.says(PULL, head + b"11\r\n" + b'{"status": "Go"}\n\r\n')
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.pull, "a:1", None, lambda _: heard.set())
                await heard.wait()
                nursery.cancel_scope.cancel()
            await server.await_closed()


async def test_archive_is_uploaded_whole(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LOAD, answer(200, '{"stream": "Loaded image: a:1"}'))
        blob = Reader(b"123", b"45", size_bytes=5)
        await load(client, Entry("blob", blob))
        assert (
            b"".join([piece async for piece in archive([Entry("blob", b"12345")])])
            == (server.uploads[-1])
        )


async def test_refusal_in_the_middle_of_an_upload_is_heard(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LOAD, answer(400, '{"message": "enough of that"}', close=True))
        large = Reader(*[bytes(2**20)] * 64, size_bytes=64 * 2**20)
        with pytest.raises((EngineRefused, EngineUnavailable)):
            await load(client, Entry("large", large))


async def test_load_that_docker_fails_is_refused(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LOAD, answer(200, '{"errorDetail": {"message": "no\\nspace"}}'))
        with pytest.raises(EngineRefused, match=r"^Docker: no space$"):
            await load(client, Entry("blob", b"12345"))


async def test_blob_that_cannot_be_read_ends_the_load(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LOAD, answer(200, "{}"))
        damaged = Reader(b"12345", DataError("damaged"), size_bytes=10)
        with pytest.raises(DataError, match="damaged"):
            await load(client, Entry("blob", damaged))
        # The archive has no end, so that Docker takes none of it.
        assert not server.uploads


async def test_blob_of_another_length_ends_the_load(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says(LOAD, answer(200, "{}"))
        for reader in (Reader(b"1", size_bytes=2000), Reader(bytes(9000), size_bytes=2)):
            with pytest.raises(DataError, match="bytes of its descriptor"):
                await load(client, Entry("blob", reader))


async def test_names_are_given_and_taken(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, client):
        server.says("/images/sha256:00/tag", answer(201, ""))
        await client.tag("sha256:00", "host:5000/a/b:1")
        server.says("/images/host:5000/a/b:1", answer(200, "[]"))
        await client.untag("host:5000/a/b:1")
        await client.untag("host:5000/never:1")
        with pytest.raises(NotFound):
            await client.tag("nothing", "a:1")
        server.says("/images/used:1", answer(409, '{"message": "in use"}'))
        with pytest.raises(EngineRefused, match=r"^Docker: in use$"):
            await client.untag("used:1")
        assert "/v1.41/images/host:5000/a/b:1" in server.asked
