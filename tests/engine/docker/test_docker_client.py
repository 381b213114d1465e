"""Docker's API over a real socket, with a server that answers what no sane engine would."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio

from beiran.engine.docker import docker_client as docker_api
from beiran.engine.docker.docker_client import BadAnswer, DockerApi, ImageSummary, image_path, lines
from beiran.engine.docker.docker_engine import DockerEngine
from beiran.engine.interface import EngineDown
from beiran.errors import EngineUnavailable, NotFound
from tests.engine.conftest import listening

ONE = "sha256:" + 64 * "1"
TWO = "sha256:" + 64 * "2"
LAYER = "sha256:" + 64 * "3"


def answer(status: int, body: str, *, close: bool = False) -> bytes:
    connection = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 {status} Any\r\n{connection}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


class Server:
    """Answers each path with what is scripted for it; the last answer again and again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.script: dict[str, list[bytes]] = {}
        self.asked: list[str] = []
        self.connections = 0
        self._open: list[trio.SocketStream] = []

    def says(self, path: str, *answers: bytes) -> None:
        self.script[path] = list(answers)

    async def hang_up(self) -> None:
        """Close all connections, as an engine does with those that lie idle."""
        for stream in self._open:
            await stream.aclose()

    async def handle(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self._open.append(stream)
        try:
            async with stream:
                while request := await stream.receive_some(65536):
                    path = request.split()[1].decode().partition("?")[0]
                    self.asked.append(path)
                    answers = self.script.get(path, [answer(404, '{"message": "no such thing"}')])
                    reply = answers.pop(0) if len(answers) > 1 else answers[0]
                    await stream.send_all(reply)
                    if b"Connection: close" in reply or reply == b"":
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    server = Server(str(folder / "docker.sock"))
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(server.path)
    socket.listen()
    listener = trio.SocketListener(socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[tuple[Server, DockerApi]]:
    async with serving(folder) as server:
        api = DockerApi(server.path)
        try:
            yield server, api
        finally:
            api.close()


async def test_connection_is_used_again(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        server.says("/list", answer(200, "[]"))
        for _ in range(3):
            assert await api.get("/list", list[ImageSummary]) == []
        assert server.connections == 1


async def test_connection_that_was_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        server.says("/list", answer(200, "[]"))
        await api.get("/list", list[ImageSummary])
        await server.hang_up()
        assert await api.get("/list", list[ImageSummary]) == []
        assert server.connections == 2


async def test_connection_that_the_engine_closes_is_not_used_again(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        server.says("/list", answer(200, "[]", close=True))
        await api.get("/list", list[ImageSummary])
        assert await api.get("/list", list[ImageSummary]) == []
        assert server.connections == 2


async def test_version_is_the_newest_that_both_speak(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        for offered, spoken in [("1.41", "v1.41"), ("1.99", "v1.51"), ("2.0", "v1.51")]:
            server.says("/version", answer(200, f'{{"ApiVersion": "{offered}"}}'))
            server.says(f"/{spoken}/list", answer(200, "[]"))
            await api.negotiate()
            assert await api.get("/list", list[ImageSummary]) == []
        server.says("/version", answer(200, "{}"))
        server.says("/list", answer(200, "[]"))
        await api.negotiate()
        assert await api.get("/list", list[ImageSummary]) == []


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (answer(404, '{"message": "no such page"}'), BadAnswer, "404 to /list: no such page"),
        (answer(500, '{"message": "broken"}'), BadAnswer, "500 to /list: broken"),
        (answer(500, "<html>"), BadAnswer, "HTTP status 500"),
        (answer(200, "<html>"), BadAnswer, "cannot be read"),
        (answer(200, '[{"Id": 5}]'), BadAnswer, "cannot be read"),
        (b"", EngineUnavailable, "it closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", EngineUnavailable, "the connection broke"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\n[",
            EngineUnavailable,
            "it closed the connection",
        ),
    ],
)
async def test_bad_answer_is_an_error_that_says_what(
    reply: bytes, error: type[Exception], message: str, tmp_path: Path
) -> None:
    async with asking(tmp_path) as (server, api):
        server.says("/list", reply)
        with pytest.raises(error, match=message):
            await api.get("/list", list[ImageSummary])


async def test_image_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        path = image_path("host:5000/a/b@c d", "json")
        with pytest.raises(NotFound, match="no such thing"):
            await api.get(path, list[ImageSummary])
        assert server.asked == ["/images/host:5000/a/b@c%20d/json"]


async def test_answer_that_never_comes_or_never_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(docker_api, "BODY_BYTES_MAX", 1000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    async with asking(tmp_path) as (server, api):
        server.says("/list", head)
        with pytest.raises(EngineUnavailable, match="no answer to /list in 0 s"):
            await api.get("/list", list[ImageSummary])
        server.says("/list", head + bytes(5000))
        with pytest.raises(EngineUnavailable, match="over 1000 bytes"):
            await api.get("/list", list[ImageSummary])
        server.says("/events", b"HTTP/1.1 100 Continue\r\n\r\n")
        with pytest.raises(EngineUnavailable, match="no answer to /events"):
            async with api.stream("/events"):
                raise AssertionError
        for reply in (b"", answer(500, "{}")):
            server.says("/events", reply)
            with pytest.raises(EngineUnavailable):
                async with api.stream("/events"):
                    raise AssertionError


@pytest.mark.parametrize("path", ["missing", "", "x" * 200])
async def test_socket_that_is_not_there_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable):
        await DockerApi(str(tmp_path / path)).get("/list", list[ImageSummary])


async def _each(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        await trio.lowlevel.checkpoint()
        yield piece


async def test_lines_are_put_together_from_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_api, "LINE_BYTES_MAX", 10)
    async with aclosing(_each(b"a", b"b\nc\n", b"d\ne")) as pieces:
        assert [line async for line in lines(pieces)] == [b"ab", b"c", b"d"]
    async with aclosing(_each(b"x" * 11)) as pieces:
        with pytest.raises(EngineUnavailable, match="line of over"):
            assert [line async for line in lines(pieces)]


def _inspect(image: str, layers: Sequence[str]) -> bytes:
    named = ", ".join(f'"{layer}"' for layer in layers)
    return answer(
        200,
        f'{{"Id": "{image}", "RepoTags": ["a:1"], "Created": "2024-01-01T00:00:00Z",'
        f' "RootFS": {{"Layers": [{named}]}}}}',
    )


def _script_engine(server: Server, *images: str) -> None:
    """An engine with a graph driver whose data root cannot be read, and these images."""
    listed = ", ".join(f'{{"Id": "{image}", "RepoTags": ["a:1"]}}' for image in images)
    server.says("/version", answer(200, '{"ApiVersion": "1.41", "Version": "20.10"}'))
    server.says("/v1.41/info", answer(200, '{"DockerRootDir": "/nowhere", "Driver": "overlay2"}'))
    server.says("/v1.41/events", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.says("/v1.41/images/json", answer(200, f"[{listed}]"))
    for image in images:
        server.says(f"/v1.41/images/{image}/json", _inspect(image, [LAYER]))
        history = '[{"Size": 7, "CreatedBy": "COPY a"}, {"Size": 0, "CreatedBy": "ENV A=1"}]'
        server.says(f"/v1.41/images/{image}/history", answer(200, history))


async def test_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE, TWO)
        for bad in (_inspect("no digest", []), _inspect(TWO, ["no"]), answer(500, ""), b""):
            server.says(f"/v1.41/images/{TWO}/json", bad)
            async with listening(DockerEngine(server.path)) as listener:
                if bad == b"":
                    news = await listener.next()
                    assert isinstance(news, EngineDown)
                    continue
                await listener.until_listed()
                assert list(listener.images) == [ONE]
                assert listener.sizes(ONE) == [7]


async def test_list_is_asked_again_when_an_image_went_away_under_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE)
        (listed,) = server.script["/v1.41/images/json"]
        gone = answer(404, '{"message": "content digest not found"}')
        server.says("/v1.41/images/json", gone, answer(500, "{}"), listed)
        async with listening(DockerEngine(server.path)) as listener:
            await listener.until_listed()
            assert list(listener.images) == [ONE]


async def test_engine_that_cannot_list_is_down(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE)
        server.says("/v1.41/images/json", answer(404, "{}"))
        async with listening(DockerEngine(server.path)) as listener:
            news = await listener.next()
            assert isinstance(news, EngineDown)
            assert "404 to /images/json" in news.reason


async def test_event_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE)
        server.says(f"/v1.41/images/{TWO}/history", answer(200, "[]"))
        events = [
            b"no JSON",
            b'{"Type": "image", "Action": "tag", "Actor": 5}',
            b'{"Type": "container", "Action": "commit", "Actor": {"ID": "x"}}',
            b'{"Type": "image", "Action": "prune", "Actor": {"ID": ""}}',
            b'{"Type": "image", "Action": "tag", "Actor": {"ID": "%b"}}' % TWO.encode(),
        ]
        (head,) = server.script["/v1.41/events"]
        chunks = b"".join(b"%x\r\n%b\n\r\n" % (len(event) + 1, event) for event in events)
        server.says("/v1.41/events", head + chunks)
        server.says(f"/v1.41/images/{TWO}/json", _inspect(TWO, []))
        async with listening(DockerEngine(server.path)) as listener:
            await listener.until_listed()
            assert listener.tags(ONE) == ("a:1",)
            await listener.until_tags(TWO, "a:1")
            await listener.until_tags(ONE)
