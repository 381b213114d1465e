"""The alarm of a core's driver, in virtual time."""

import pytest
import trio
import trio.testing

from beiran.net.alarm import Alarm


class Core:
    """A core with one deadline, which the test sets."""

    def __init__(self) -> None:
        self.deadline: float | None = None

    def next_deadline(self) -> float | None:
        return self.deadline


@pytest.fixture
def core() -> Core:
    return Core()


async def test_an_alarm_rings_at_the_deadline(
    core: Core, autojump_clock: trio.testing.MockClock
) -> None:
    core.deadline = trio.current_time() + 5
    assert await Alarm(core.next_deadline).ring() == pytest.approx(core.deadline)


async def test_a_sooner_deadline_rings_sooner(
    core: Core, autojump_clock: trio.testing.MockClock
) -> None:
    alarm = Alarm(core.next_deadline)
    began = trio.current_time()
    rang_at: list[float] = []

    async def ring() -> None:
        rang_at.append(await alarm.ring())

    for core.deadline, input_deadline in ((None, began + 2), (began + 10, began + 4)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ring)
            await trio.testing.wait_all_tasks_blocked()
            core.deadline = input_deadline
            alarm.look()
    assert rang_at == pytest.approx([began + 2, began + 4])
