"""The report of a cluster: what is recorded, the page, plots and tables."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from beiran.errors import SettingsError
from simulations.gossip.catalogue import MAKERS
from simulations.gossip.scenario import play
from simulations.gossip.world import World
from simulations.kernel.links import Link
from simulations.report.gossip.chronicle import Chronicle
from simulations.report.gossip.page import write_report
from simulations.report.gossip.record import Record
from simulations.report.gossip.summary import figures, times_to

ROOT = Path(__file__).parents[3]


TABLES = ("summary", "news", "failures", "false-verdicts", "traffic", "states")


@pytest.fixture
def world() -> World:
    return World(seed=4)


def test_an_update_is_followed_from_the_first_host_to_the_last(world: World) -> None:
    chronicle = Chronicle(world)
    hosts = world.cluster(6)
    world.run(1.0)
    world.hold(hosts[2], "nginx")
    world.run(2.0)
    (news,) = chronicle.record("news").news
    assert (news.owner, news.public) == (2, 5)
    assert len(news.after_s) == 5
    assert news.after_s == sorted(news.after_s)
    assert 0 < news.after_s[0] <= times_to([news], 1.0)[0] < 0.1


def test_a_host_that_starts_later_is_not_waited_for(world: World) -> None:
    chronicle = Chronicle(world)
    hosts = world.cluster(3)
    world.hold(hosts[0], "nginx")
    world.run(2.0)
    world.add(join=hosts[:1])
    world.run(5.0)
    (news,) = chronicle.record("news").news
    assert len(news.after_s) == news.public == 2


def test_failures_are_timed_from_the_fault(world: World) -> None:
    chronicle = Chronicle(world)
    hosts = world.cluster(8)
    world.run(5.0)
    world.kill(hosts[1])
    world.run(3.0)
    world.power_off(hosts[2])
    world.run(30.0)
    record = chronicle.record("failures")
    killed, off = record.failures
    assert (killed.how, killed.host, off.how, off.host) == ("killed", 1, "off", 2)
    assert (len(killed.down_s), len(off.down_s)) == (7, 6)
    assert killed.down_s[-1] < 1.0 < off.down_s[-1]
    assert off.suspected_s is not None
    assert off.suspected_s <= off.down_s[0]
    assert record.false_verdicts == []
    world.restart(hosts[1])  # who learns of the other now was no witness
    world.run(5.0)
    assert chronicle.record("later").failures == record.failures
    assert [span.state for span in record.truth] == ["killed", "off"]
    assert {span.state for span in record.seen if span.host == 2} >= {"down"}


def test_a_host_that_leaves_in_order_has_not_failed(world: World) -> None:
    chronicle = Chronicle(world)
    hosts = world.cluster(4)
    world.leave(hosts[3])
    world.run(5.0)
    record = chronicle.record("leave")
    assert record.failures == []
    assert [span.state for span in record.truth] == ["leaving", "ended"]
    assert {span.state for span in record.seen} == {"left"}


def test_samples_count_what_was_sent() -> None:
    world = World(seed=2, link=Link(loss=0.05))
    chronicle = Chronicle(world, sample_s=0.5)
    world.cluster(5)
    world.run(20.0)
    record = chronicle.record("traffic")
    sent = sum(size for sample in record.samples for _, size in sample.by_kind.values())
    assert sent == sum(record.sent_by_host) == sum(host.traffic.bytes for host in world.hosts)
    assert record.samples[-1].online == 5
    assert record.dropped["lost"] == world.dropped["lost"]


def test_a_chronicle_changes_nothing() -> None:
    traces = []
    for watched in (False, True):
        world, lines = World(seed=9), list[str]()
        world.trace = lines.append
        if watched:
            Chronicle(world)
        hosts = world.cluster(5)
        world.kill(hosts[1])
        world.run(10.0)
        traces.append(lines)
    assert traces[0] == traces[1]


def _eventful() -> Record:
    world = World(seed=5)
    chronicle = Chronicle(world)
    hosts = world.cluster(7)
    for number in range(4):
        world.hold(hosts[number], f"image-{number}")
        world.run(1.0)
    world.power_off(hosts[1])
    world.stop(hosts[3], 6.0)
    world.run(20.0)
    world.partition(hosts[:3], hosts[3:])
    world.run(10.0)
    world.heal()
    world.run(10.0)
    return chronicle.record("A <bad> day & night", {"seed": "5"})


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    record = _eventful()
    page = write_report(record, tmp_path).read_text()
    assert "A &lt;bad&gt; day &amp; night" in page
    assert page.count("data:image/png;base64,") == 5
    assert 'src="http' not in page
    assert all(figure.name in page for figure in figures(record))
    for name in ("dissemination", "detection", "timeline", "traffic", "kinds"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for name in TABLES:
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            head, *rows = list(csv.reader(file))
        assert all(len(row) == len(head) for row in rows)
        assert rows or name == "false-verdicts"


def test_a_page_is_made_again_from_the_record(tmp_path: Path) -> None:
    record = _eventful()
    write_report(record, tmp_path)
    assert Record.read(tmp_path) == record
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(Record.read(tmp_path), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_in_which_nothing_happened_has_a_page(world: World, tmp_path: Path) -> None:
    write_report(Chronicle(world).record("empty"), tmp_path)
    chronicle = Chronicle(world)
    world.cluster(2)
    world.run(3.0)
    write_report(chronicle.record("calm"), tmp_path)


def test_a_failure_that_no_other_host_saw_has_figures() -> None:
    chronicles: list[Chronicle] = []
    everyone_fails = MAKERS["flash-restart"](12, 2, 0.0)
    play(everyone_fails, prepare=lambda world: chronicles.append(Chronicle(world)))
    record = chronicles[0].record("flash-restart")
    assert any(failure.witnesses == 0 for failure in record.failures)
    assert any(figure.name == "Hosts killed" for figure in figures(record))


@pytest.mark.parametrize("data", [None, b"", b"no record", b"x\x9c"])
def test_a_file_without_a_record_is_one_line_of_error(data: bytes | None, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "record.json.z").write_bytes(data)
    with pytest.raises(SettingsError, match="no record of a run"):
        Record.read(tmp_path)


def test_the_command_writes_a_report_and_makes_it_again(tmp_path: Path) -> None:
    out = tmp_path / "report"
    for words in (["run", "crash", "--nodes", "5", "--report", str(out)], ["report", str(out)]):
        done = subprocess.run(
            [sys.executable, "-m", "simulations", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(out / "index.html")
        (out / "index.html").unlink()
