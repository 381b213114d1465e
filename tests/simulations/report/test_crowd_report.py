"""The report of a crowd: what is recorded, the page, plots and tables."""

import csv
from pathlib import Path

import pytest

from simulations.report.swarm.page import write_crowd_report
from simulations.report.swarm.record import CrowdChronicle, CrowdRecord
from simulations.swarm.flash import Shares, flash_crowd
from simulations.swarm.operations import (
    At,
    Kill,
)
from simulations.swarm.scenario import Crowd, play

MB = 1_000_000


@pytest.fixture(scope="module")
def record() -> CrowdRecord:
    chronicles: list[CrowdChronicle] = []
    crowd = flash_crowd(12, 4 * MB, Shares(late=0.2, liars=0.1, killed=0.1))
    outcome = play(crowd, prepare=lambda pull: chronicles.append(CrowdChronicle(pull)))
    return chronicles[0].record("a crowd", {"nodes": "12"}, outcome)


class TestReport:
    def test_samples_go_up_to_all_that_ended_with_it(self, record: CrowdRecord) -> None:
        done = [sample.done for sample in record.samples]
        assert done == sorted(done)
        assert done[-1] == sum(host.took_s is not None for host in record.hosts) == 11
        assert record.samples[-1].origin_bytes == record.origin_bytes

    def test_a_report_is_a_page_plots_and_tables(self, record: CrowdRecord, tmp_path: Path) -> None:
        page = write_crowd_report(record, tmp_path)
        text = page.read_text()
        assert "Fluid bound" in text
        assert "<script" not in text
        assert text.count("data:image/png") == 4
        for name in ("done.png", "origin.png", "waste.png", "given.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        with (tmp_path / "hosts.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["host"] for row in rows] == [host.name for host in record.hosts]
        assert {row["role"] for row in rows} == {"plain", "late", "liar", "killed"}
        assert CrowdRecord.read(tmp_path) == record

    def test_a_crowd_without_hosts_or_bytes_has_a_page(self, tmp_path: Path) -> None:
        for crowd in (Crowd(1, 1, image_bytes=0), Crowd(1, 1, operations=(At(0.0, Kill(0)),))):
            chronicles: list[CrowdChronicle] = []
            outcome = play(crowd, prepare=lambda pull: chronicles.append(CrowdChronicle(pull)))  # noqa: B023
            assert outcome.violation is None
            write_crowd_report(chronicles[0].record("none", {}, outcome), tmp_path)
