"""Flows share pipes fairly, and every byte is counted once."""

from collections.abc import Callable
from random import Random

import pytest

from simulations.kernel.fluid import Flow, Flows, Pipe
from simulations.kernel.time import VirtualTime


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def flows(time: VirtualTime) -> Flows:
    return Flows(time)


def ends(time: VirtualTime, into: dict[str, float], name: str) -> Callable[[Flow], None]:
    return lambda flow: into.__setitem__(name, time.now)


def run(time: VirtualTime, until: float = 1000.0) -> None:
    time.run(until - time.now, hosts=10)


def test_one_flow_has_the_slower_of_its_links(time: VirtualTime, flows: Flows) -> None:
    done: dict[str, float] = {}
    flows.start(Pipe(100.0), Pipe(50.0), 1000, ends(time, done, "a"))
    run(time)
    assert done["a"] == pytest.approx(20.0)


def test_flows_share_a_pipe_and_take_over_the_rest(time: VirtualTime, flows: Flows) -> None:
    done: dict[str, float] = {}
    up = Pipe(100.0)
    flows.start(up, Pipe(1000.0), 500, ends(time, done, "short"))
    flows.start(up, Pipe(1000.0), 1000, ends(time, done, "long"))
    run(time)
    assert done["short"] == pytest.approx(10.0)
    assert done["long"] == pytest.approx(15.0)


def test_what_another_end_holds_back_is_left_to_the_others(time: VirtualTime, flows: Flows) -> None:
    done: dict[str, float] = {}
    up = Pipe(100.0)
    flows.start(up, Pipe(10.0), 100, ends(time, done, "held back"))
    flows.start(up, Pipe(1000.0), 900, ends(time, done, "fast"))
    run(time)
    assert done["held back"] == pytest.approx(10.0)
    assert done["fast"] == pytest.approx(10.0)


def test_a_cable_that_is_out_moves_nothing_until_it_is_in(time: VirtualTime, flows: Flows) -> None:
    done: dict[str, float] = {}
    up = Pipe(100.0)
    flow = flows.start(up, Pipe(100.0), 1000, ends(time, done, "a"))
    time.schedule(5.0, lambda: flows.set_rate(up, 0.0))
    time.schedule(50.0, lambda: flows.set_rate(up, 100.0))
    run(time, 40.0)
    assert flows.moved(flow) == 500
    run(time)
    assert done["a"] == pytest.approx(55.0)


def test_a_flow_that_is_stopped_counts_what_it_moved(time: VirtualTime, flows: Flows) -> None:
    up, down = Pipe(100.0), Pipe(100.0)
    flow = flows.start(up, down, 1000, lambda flow: pytest.fail("it was stopped"))
    time.schedule(3.0, lambda: flows.stop(flow))
    run(time)
    assert flows.moved(flow) == 300
    assert up.carried_bytes == down.carried_bytes == pytest.approx(300)
    assert not up.flows
    assert not down.flows


@pytest.mark.parametrize("seed", range(5))
def test_no_link_carries_more_than_it_can_and_no_byte_is_lost(
    seed: int, time: VirtualTime, flows: Flows
) -> None:
    random = Random(seed)
    ups = [Pipe(random.choice([50.0, 100.0, 400.0])) for _ in range(6)]
    downs = [Pipe(random.choice([50.0, 100.0, 400.0])) for _ in range(6)]
    done: dict[str, float] = {}
    sizes = [random.randint(1, 5000) for _ in range(60)]
    for number, size in enumerate(sizes):
        up, down = random.choice(ups), random.choice(downs)

        def start(up: Pipe = up, down: Pipe = down, size: int = size, n: int = number) -> None:
            flows.start(up, down, size, ends(time, done, str(n)))

        time.schedule(random.uniform(0.0, 60.0), start)
    run(time, 10_000.0)
    assert len(done) == len(sizes)
    for links in (ups, downs):
        assert sum(each.carried_bytes for each in links) == pytest.approx(sum(sizes), rel=1e-6)
        for each in links:  # levels settle until they are within 0.2 %
            assert each.carried_bytes <= 1.02 * each.bytes_per_s * max(done.values())
