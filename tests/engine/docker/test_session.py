"""A session with a Docker Engine: when it lists again, and answers that no sane engine gives."""

from collections.abc import Sequence
from math import inf
from pathlib import Path

from beiran.engine.docker.docker_engine import DockerEngine
from beiran.engine.docker.session import RelistSchedule
from beiran.engine.interface import EngineDown
from tests.engine.conftest import listening
from tests.engine.docker.stub_engine import StubEngine, answer, serving

ONE = "sha256:" + 64 * "1"
TWO = "sha256:" + 64 * "2"
LAYER = "sha256:" + 64 * "3"


def listed(*, at: float = 100.0, took: float = 0.1) -> RelistSchedule:
    """A schedule after its first list."""
    schedule = RelistSchedule(300.0)
    schedule.start(at - took)
    schedule.end(at)
    return schedule


def test_list_is_due_after_its_period_and_reported_as_a_whole() -> None:
    schedule = listed()
    assert schedule.due_at == 400
    schedule.start(400)
    assert schedule.due_at == inf
    assert not schedule.take_whole()
    schedule.end(400.1)
    assert schedule.take_whole()
    assert not schedule.take_whole()


def test_need_is_due_at_once_but_not_before_the_pause_after_a_list() -> None:
    schedule = listed(took=0.1)
    schedule.need(110)
    assert schedule.due_at == 110
    schedule.start(110)
    schedule.end(112)
    schedule.need(113)
    assert schedule.due_at == 112 + 20 * 2
    schedule.start(152)
    schedule.end(152.1)
    assert not schedule.take_whole()


def test_hints_in_a_row_are_followed_by_one_list() -> None:
    schedule = listed()
    schedule.hint(110)
    assert schedule.due_at == 110.5
    schedule.hint(110.4)
    assert schedule.due_at == 110.9
    for tenths in range(1104, 1200):
        schedule.hint(tenths / 10)
    assert schedule.due_at == 115


def test_hint_during_a_list_is_followed_by_another() -> None:
    schedule = listed()
    schedule.start(110)
    schedule.hint(110.01)
    assert schedule.due_at == inf
    schedule.end(110.02)
    assert schedule.due_at == 110.51


def test_pause_is_never_longer_than_the_period() -> None:
    schedule = listed(at=100, took=60)
    schedule.need(101)
    assert schedule.due_at == 400


def _inspect(image: str, layers: Sequence[str]) -> bytes:
    named = ", ".join(f'"{layer}"' for layer in layers)
    return answer(
        200,
        f'{{"Id": "{image}", "RepoTags": ["a:1"], "Created": "2024-01-01T00:00:00Z",'
        f' "RootFS": {{"Layers": [{named}]}}}}',
    )


def _script_engine(server: StubEngine, *images: str) -> None:
    """An engine with a graph driver whose data root cannot be read, and these images."""
    listed = ", ".join(f'{{"Id": "{image}", "RepoTags": ["a:1"]}}' for image in images)
    server.says("/info", answer(200, '{"DockerRootDir": "/nowhere", "Driver": "overlay2"}'))
    server.says("/events", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.says("/images/json", answer(200, f"[{listed}]"))
    for image in images:
        server.says(f"/images/{image}/json", _inspect(image, [LAYER]))
        history = '[{"Size": 7, "CreatedBy": "COPY a"}, {"Size": 0, "CreatedBy": "ENV A=1"}]'
        server.says(f"/images/{image}/history", answer(200, history))


async def test_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE, TWO)
        for bad in (_inspect("no digest", []), _inspect(TWO, ["no"]), answer(500, ""), b""):
            server.says(f"/images/{TWO}/json", bad)
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
        (listed,) = server.script["/images/json"]
        gone = answer(404, '{"message": "content digest not found"}')
        server.says("/images/json", gone, answer(500, "{}"), listed)
        async with listening(DockerEngine(server.path)) as listener:
            await listener.until_listed()
            assert list(listener.images) == [ONE]


async def test_engine_that_cannot_list_is_down(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE)
        server.says("/images/json", answer(404, '{"message": "no"}'))
        async with listening(DockerEngine(server.path)) as listener:
            news = await listener.next()
            assert isinstance(news, EngineDown)
            assert "404 to /images/json" in news.reason


async def test_event_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _script_engine(server, ONE)
        server.says(f"/images/{TWO}/history", answer(200, "[]"))
        events = [
            b"no JSON",
            b'{"Type": "image", "Action": "tag", "Actor": 5}',
            b'{"Type": "container", "Action": "commit", "Actor": {"ID": "x"}}',
            b'{"Type": "image", "Action": "prune", "Actor": {"ID": ""}}',
            b'{"Type": "image", "Action": "tag", "Actor": {"ID": "%b"}}' % TWO.encode(),
        ]
        (head,) = server.script["/events"]
        chunks = b"".join(b"%x\r\n%b\n\r\n" % (len(event) + 1, event) for event in events)
        server.says("/events", head + chunks)
        server.says(f"/images/{TWO}/json", _inspect(TWO, []))
        async with listening(DockerEngine(server.path)) as listener:
            await listener.until_listed()
            assert listener.tags(ONE) == ("a:1",)
            await listener.until_tags(TWO, "a:1")
            await listener.until_tags(ONE)
