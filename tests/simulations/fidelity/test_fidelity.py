"""The simulator beside the lab: what kernels and processors add, and the run that is compared."""

from pathlib import Path

import pytest

from beiran.errors import SettingsError
from simulations.fidelity.compare import Pair, compare, comparison_table
from simulations.fidelity.kernels import KernelWorld
from simulations.fidelity.measured import LAB_RUN, Counts, LabRun
from simulations.fidelity.twin import HostModel, SharedMachine, simulate
from simulations.kernel.traffic import ARP, KEEPALIVE


def test_kernels_ask_for_neighbours_and_keep_connections_alive() -> None:
    world = KernelWorld(seed=3)
    world.cluster(4)
    world.run(130.0)
    asked = sum(host.traffic.packets_by_tag[ARP] for host in world.hosts)
    assert 2 * 4 <= asked < 4 * 130
    assert all(host.traffic.packets_by_tag[KEEPALIVE] for host in world.hosts)


def test_thirty_hosts_on_two_cores_wait_for_each_other() -> None:
    counts = Counts(idle_s=1.0, news=5, kills=1, silences=0)
    many = simulate(30, counts, HostModel(cores=2))
    alone = simulate(30, counts, HostModel(cores=60))
    assert min(many.spread_s) > max(alone.spread_s)
    assert many.costs.news_s > 0


def test_a_killed_process_does_none_of_its_pending_jobs() -> None:
    world = SharedMachine(3, HostModel())
    hosts = world.cluster(3)
    reported: list[int] = []
    world.reported.append(lambda host, effect: reported.append(host.number))
    world.hold(hosts[0], "nginx")
    world.kill(hosts[0])
    world.run(5.0)
    assert 0 not in reported
    assert reported


def test_the_labs_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = LabRun.read(LAB_RUN)
    run.write(tmp_path / "run.json")
    assert LabRun.read(tmp_path / "run.json") == run
    assert [size.hosts for size in run.sizes] == [5, 30]
    with pytest.raises(SettingsError, match="no run of the lab"):
        LabRun.read(tmp_path / "none.json")


def test_lab_and_simulator_agree_in_bytes_and_in_the_detection_of_silence() -> None:
    pairs = compare(LabRun.read(LAB_RUN))
    assert len(pairs) == 10
    for pair in pairs:
        if "idle" in pair.name or "silent" in pair.name:
            assert pair.agrees, comparison_table(pairs)


def test_a_difference_is_printed() -> None:
    pairs = [Pair("a", 1.0, 1.1, 0.2), Pair("b", 1.0, 1.5, 0.2)]
    lines = comparison_table(pairs).splitlines()
    assert "more than" not in lines[1]
    assert "+50%  more than 20%" in lines[2]
