"""What Docker is told to do, with a server that answers what no sane engine would."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from beiran.engine.docker.commands import DockerActions
from beiran.engine.docker.docker_client import DockerApi
from beiran.engine.docker.load import Entry
from beiran.engine.interface import PullProgress
from beiran.errors import DataError, EngineRefused, EngineUnavailable, NotFound
from tests.engine.docker.test_docker_client import Server, answer, asking

LOAD = "/images/load"
CREATE = "/images/create"


class Reader:
    """A blob that is given by a test."""

    file = None

    def __init__(self, *chunks: bytes | Exception, size_bytes: int) -> None:
        self._chunks = chunks
        self.size_bytes = size_bytes

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
            await trio.lowlevel.checkpoint()


async def pull(server: Server, *answers: bytes) -> list[PullProgress]:
    server.says(CREATE, *answers)
    heard: list[PullProgress] = []
    await DockerActions(DockerApi(server.path)).pull("127.0.0.1:1/a:1", None, heard.append)
    return heard


async def test_progress_is_told_as_docker_says_it(tmp_path: Path) -> None:
    said = [
        '{"status": "Pulling from a", "id": "1"}',
        '{"status": "Downloading", "id": "0123456789ab",'
        ' "progressDetail": {"current": 5, "total": 9}}',
        '{"status": "Waiting", "id": "0123456789ab", "progressDetail": {}}',
        "",
        "what is this",
        '{"status": "Odd", "progressDetail": {"current": -5, "total": -1}, "new": [1]}',
    ]
    async with asking(tmp_path) as (server, _):
        assert await pull(server, answer(200, "\r\n".join(said) + "\r\n")) == [
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
    async with asking(tmp_path) as (server, _):
        with pytest.raises(EngineRefused, match=r"^Docker: no space$"):
            await pull(server, reply)


@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{}", b"what\r\n\r\n"],
)
async def test_engine_that_breaks_off_is_unavailable(reply: bytes, tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, _):
        with pytest.raises(EngineUnavailable):
            await pull(server, reply)


async def test_refusal_in_the_middle_of_an_upload_is_heard(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        server.says(LOAD, answer(400, '{"message": "enough of that"}', close=True))
        large = Reader(*[bytes(2**20)] * 64, size_bytes=64 * 2**20)
        with pytest.raises((EngineRefused, EngineUnavailable)):
            await DockerActions(api).load([Entry("large", large)])


async def test_blob_that_cannot_be_read_ends_the_load(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        server.says(LOAD, answer(200, "{}"))
        damaged = Reader(b"12345", DataError("damaged"), size_bytes=10)
        with pytest.raises(DataError, match="damaged"):
            await DockerActions(api).load([Entry("blob", damaged)])


async def test_blob_of_another_length_ends_the_load(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        server.says(LOAD, answer(200, "{}"))
        for reader in (Reader(b"1", size_bytes=2000), Reader(bytes(9000), size_bytes=2)):
            with pytest.raises(DataError, match="length"):
                await DockerActions(api).load([Entry("blob", reader)])


async def test_names_are_given_and_taken(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, api):
        actions = DockerActions(api)
        server.says("/images/sha256:00/tag", answer(201, ""))
        await actions.tag("sha256:00", "host:5000/a/b:1")
        server.says("/images/host:5000/a/b:1", answer(200, "[]"))
        await actions.untag("host:5000/a/b:1")
        await actions.untag("host:5000/never:1")
        with pytest.raises(NotFound):
            await actions.tag("nothing", "a:1")
        server.says("/images/used:1", answer(409, '{"message": "in use"}'))
        with pytest.raises(EngineRefused, match="in use"):
            await actions.untag("used:1")
        assert "/images/host:5000/a/b:1" in server.asked
