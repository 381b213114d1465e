"""Links as fluids: what flows at once shares them fairly, and every byte is counted once."""

from collections.abc import Callable
from random import Random

import pytest

from simulations.kernel.fluid import Flow, Link, Network
from simulations.kernel.time import Heap


@pytest.fixture
def heap() -> Heap:
    return Heap(0.0)


@pytest.fixture
def network(heap: Heap) -> Network:
    return Network(lambda: heap.now, heap.at)


def link(rate: float) -> Link:
    return Link(rate, level=rate)


def ends(heap: Heap, into: dict[str, float], name: str) -> Callable[[Flow], None]:
    return lambda flow: into.__setitem__(name, heap.now)


def run(heap: Heap, until: float = 1000.0) -> None:
    while heap.step(until):
        pass


def test_one_flow_has_the_slower_of_its_links(heap: Heap, network: Network) -> None:
    done: dict[str, float] = {}
    network.start(link(100.0), link(50.0), 1000, ends(heap, done, "a"))
    run(heap)
    assert done["a"] == pytest.approx(20.0)


def test_flows_share_a_link_and_take_over_what_others_leave(heap: Heap, network: Network) -> None:
    done: dict[str, float] = {}
    up = link(100.0)
    network.start(up, link(1000.0), 500, ends(heap, done, "short"))
    network.start(up, link(1000.0), 1000, ends(heap, done, "long"))
    run(heap)
    assert done["short"] == pytest.approx(10.0)
    assert done["long"] == pytest.approx(15.0)


def test_what_another_end_holds_back_is_left_to_the_others(heap: Heap, network: Network) -> None:
    done: dict[str, float] = {}
    up = link(100.0)
    network.start(up, link(10.0), 100, ends(heap, done, "held back"))
    network.start(up, link(1000.0), 900, ends(heap, done, "fast"))
    run(heap)
    assert done["held back"] == pytest.approx(10.0)
    assert done["fast"] == pytest.approx(10.0)


def test_a_cable_that_is_out_moves_nothing_until_it_is_in(heap: Heap, network: Network) -> None:
    done: dict[str, float] = {}
    up = link(100.0)
    flow = network.start(up, link(100.0), 1000, ends(heap, done, "a"))
    heap.at(5.0, lambda: network.set_rate(up, 0.0))
    heap.at(50.0, lambda: network.set_rate(up, 100.0))
    run(heap, 40.0)
    assert network.moved(flow) == 500
    run(heap)
    assert done["a"] == pytest.approx(55.0)


def test_a_flow_that_is_stopped_counts_what_it_moved(heap: Heap, network: Network) -> None:
    up, down = link(100.0), link(100.0)
    flow = network.start(up, down, 1000, lambda flow: pytest.fail("it was stopped"))
    heap.at(3.0, lambda: network.stop(flow))
    run(heap)
    assert network.moved(flow) == 300
    assert up.carried_bytes == down.carried_bytes == pytest.approx(300)
    assert not up.flows
    assert not down.flows


@pytest.mark.parametrize("seed", range(5))
def test_no_link_carries_more_than_it_can_and_no_byte_is_lost(
    seed: int, heap: Heap, network: Network
) -> None:
    random = Random(seed)
    ups = [link(random.choice([50.0, 100.0, 400.0])) for _ in range(6)]
    downs = [link(random.choice([50.0, 100.0, 400.0])) for _ in range(6)]
    done: dict[str, float] = {}
    sizes = [random.randint(1, 5000) for _ in range(60)]
    for number, size in enumerate(sizes):
        up, down = random.choice(ups), random.choice(downs)

        def start(up: Link = up, down: Link = down, size: int = size, n: int = number) -> None:
            network.start(up, down, size, ends(heap, done, str(n)))

        heap.at(random.uniform(0.0, 60.0), start)
    run(heap, 10_000.0)
    assert len(done) == len(sizes)
    for links in (ups, downs):
        assert sum(each.carried_bytes for each in links) == pytest.approx(sum(sizes), rel=1e-6)
        for each in links:  # levels settle until they are within 0.2 %
            assert each.carried_bytes <= 1.02 * each.bytes_per_s * max(done.values())
