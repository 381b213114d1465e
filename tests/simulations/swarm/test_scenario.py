"""Crowds print as Python, and end well whatever befalls them."""

import pytest

from beiran.errors import SettingsError
from simulations.explore.crowds import generate
from simulations.kernel.trace import Trace
from simulations.report.swarm.record import CrowdChronicle
from simulations.swarm.flash import Shares, flash_crowd
from simulations.swarm.image_pull import ImagePull
from simulations.swarm.operations import (
    At,
    Come,
    GiveUp,
    Have,
    Join,
    Kill,
    Leave,
    Lose,
    Operation,
    OriginRate,
    PlugIn,
    Refuse,
    Restart,
    Unplug,
)
from simulations.swarm.scenario import Crowd, play, read_crowd

MB = 1_000_000


FOUND = {
    # Leases were judged by how long those before had taken, when fewer shared the origin: all were
    # given on at once, and what they had brought was thrown away.
    "an origin that is slow for all": Crowd(
        seed=19, nodes=6, image_bytes=18 * MB, layers=1, origin_bytes_per_s=300_000.0
    ),
    # … and where the origin became slow, none was ever done by which to judge the next.
    "an origin that becomes slow": Crowd(
        seed=15, nodes=1, image_bytes=4 * MB, layers=1, operations=(At(0.5, OriginRate(100_000.0)),)
    ),
    "an origin that becomes slow for two": Crowd(
        seed=15, nodes=2, image_bytes=4 * MB, layers=1, operations=(At(0.5, OriginRate(100_000.0)),)
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_scenarios_that_explore_found_hold(name: str) -> None:
    outcome = play(FOUND[name])
    assert outcome.violation is None, str(outcome.violation)


@pytest.mark.parametrize("seed", range(40))
def test_a_crowd_prints_as_python_that_makes_it(seed: int) -> None:
    crowd = generate(seed)
    assert read_crowd(repr(crowd)) == crowd


@pytest.mark.parametrize("text", ["", "1", "Crowd(", "Crowd(seed=1)", "Scenario(1, 2)", "Kill(1)"])
def test_other_text_is_no_crowd(text: str) -> None:
    with pytest.raises(SettingsError):
        read_crowd(text)


def test_the_same_seed_gives_the_same_trace_with_a_chronicle_and_without() -> None:
    crowd = flash_crowd(8, 4 * MB, Shares(late=0.2, liars=0.2), loss=0.1)
    digests = []
    for with_chronicle in (False, True):
        trace = Trace()

        def prepare(pull: ImagePull, trace: Trace = trace, watched: bool = with_chronicle) -> None:
            pull.world.trace = trace.line
            if watched:
                CrowdChronicle(pull)

        play(crowd, prepare=prepare)
        digests.append(trace.digest)
    assert digests[0] == digests[1]


class TestOperations:
    """What befalls a crowd shows in how it ends."""

    def ended(self, *operations: At[Operation], nodes: int = 4) -> tuple[ImagePull, list[bool]]:
        crowd = Crowd(1, nodes, image_bytes=6 * MB, layers=2, operations=operations)
        outcome = play(crowd)
        assert outcome.violation is None, str(outcome.violation)
        pull = outcome.pull
        return pull, [pull.has(host) for host in pull.hosts]

    def test_late_comers_and_new_hosts_get_it_too(self) -> None:
        pull, have = self.ended(At(3.0, Come(1)), At(4.0, Join()))
        assert have == [True] * 5
        assert pull.came_at[pull.hosts[1]] == pytest.approx(1003.0)

    def test_a_holder_sends_the_image_and_the_origin_nothing(self) -> None:
        pull, have = self.ended(At(0.0, Have(0)), At(1.0, Come(1)), nodes=2)
        assert have[1]
        assert pull.world.origin.sent_bytes == 0

    @pytest.mark.parametrize("gone", [GiveUp(2), Leave(2), Kill(2), Unplug(2)])
    def test_a_host_that_goes_early_lacks_the_image_and_the_others_have_it(
        self, gone: GiveUp | Leave | Kill | Unplug
    ) -> None:
        _, have = self.ended(At(0.5, gone))
        assert have == [True, True, False, True]

    def test_a_host_that_comes_back_gets_the_image(self) -> None:
        _, have = self.ended(
            At(0.5, Kill(1)), At(0.5, Unplug(2)), At(2.0, Restart(1)), At(6.0, PlugIn(2))
        )
        assert have == [True] * 4

    def test_a_restarted_agent_continues_with_its_cache(self) -> None:
        _, kept = self.received(At(1.2, Kill(1)), At(1.3, Restart(1)))
        _, lost = self.received(At(1.2, Kill(1)), At(1.3, Restart(1, wiped=True)))
        assert kept < lost

    def received(self, *operations: At[Operation]) -> tuple[ImagePull, float]:
        pull, have = self.ended(*operations)
        assert all(have)
        return pull, pull.hosts[1].down_pipe.carried_bytes

    def test_a_refused_host_gets_the_image_from_others_or_learns_why_not(self) -> None:
        _, have = self.ended(At(0.0, Refuse(0)))
        assert all(have)
        pull, have = self.ended(*(At(0.0, Refuse(host)) for host in range(4)))
        assert not any(have)
        assert all("refused" in reason for reason in pull.hosts[0].stuck.values())

    def test_an_operation_that_makes_no_sense_does_nothing(self) -> None:
        _, have = self.ended(
            At(1.0, Restart(0)), At(1.0, PlugIn(1)), At(1.0, Kill(99)), At(1.0, Lose(0.0))
        )
        assert all(have)
