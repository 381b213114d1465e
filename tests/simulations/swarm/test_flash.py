"""Flash crowds end near the bound, and draw the image once."""

import pytest

from beiran.errors import SettingsError
from simulations.report.swarm.record import CrowdChronicle
from simulations.swarm.flash import Shares, flash_crowd
from simulations.swarm.scenario import Outcome, play

MB = 1_000_000


def test_a_crowd_with_everything_in_it_ends_well_near_the_bound() -> None:
    shares = Shares(late=0.1, slow=0.1, liars=0.1, leavers=0.1, killed=0.1)
    outcome = play(flash_crowd(40, 20 * MB, shares))
    assert outcome.violation is None, str(outcome.violation)
    assert last_s(outcome) < 3 * outcome.bound_s
    pull = outcome.pull
    named = {node for host in pull.hosts if not host.lies for node in host.bans}
    assert named <= pull.liars
    assert named


def test_a_plain_crowd_draws_the_image_once_and_wastes_nothing() -> None:
    stages: list[CrowdChronicle] = []
    crowd = flash_crowd(30, 20 * MB, Shares())
    outcome = play(crowd, prepare=lambda pull: stages.append(CrowdChronicle(pull)))
    record = stages[0].record("plain", {}, outcome)
    assert record.origin_bytes <= 1.05 * crowd.image_bytes
    assert sum(host.wasted_bytes for host in record.hosts) <= 0.05 * 30 * crowd.image_bytes
    given = record.origin_bytes + sum(host.given_bytes for host in record.hosts)
    assert given == pytest.approx(sum(host.received_bytes for host in record.hosts), rel=1e-3)


def last_s(outcome: Outcome) -> float:
    pull = outcome.pull
    ended = [host for host in pull.wanted if pull.has(host)]
    return max(max(host.done_at.values()) for host in ended) - 1000.0


@pytest.mark.parametrize(
    "shares",
    [Shares(late=-0.1), Shares(late=0.6, slow=0.6)],
)
def test_shares_out_of_range_are_refused(shares: Shares) -> None:
    with pytest.raises(SettingsError):
        flash_crowd(10, MB, shares)


@pytest.mark.parametrize(
    "wrong", [{"nodes": 0}, {"layers": 0}, {"loss": 1.0}, {"origin_bytes_per_s": 0.0}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    arguments = {"nodes": 3, "image_bytes": MB, "shares": Shares(), **wrong}
    with pytest.raises(SettingsError):
        flash_crowd(**arguments)  # type: ignore[arg-type]


def test_a_host_has_one_role_at_most() -> None:
    crowd = flash_crowd(20, MB, Shares(late=0.2, slow=0.2, liars=0.2, leavers=0.2, killed=0.2))
    hosts = [getattr(at.do, "host", -1) for at in crowd.operations]
    assert sorted(hosts) == list(range(20))
