"""The bounds of a crowd's time."""

import pytest

from simulations.swarm.bound import fluid_bound_s, whole_pieces_bound_s
from simulations.swarm.operations import (
    At,
    Come,
    Slow,
)
from simulations.swarm.scenario import Crowd, play

MB = 1_000_000


class TestBounds:
    @pytest.mark.parametrize(
        ("origin", "ups", "downs", "bound_s"),
        [
            (10.0, [10.0] * 4, [10.0] * 4, 10.0),  # every link alike: as long as one alone
            (1.0, [10.0] * 4, [10.0] * 4, 100.0),  # the origin
            (10.0, [10.0] * 4, [10.0, 2.0], 50.0),  # the slowest receiver
            (10.0, [0.0] * 4, [10.0] * 4, 40.0),  # only the origin sends: one after another
            (10.0, [], [], 0.0),
        ],
    )
    def test_the_fluid_bound_is_the_tightest_of_three(
        self, origin: float, ups: list[float], downs: list[float], bound_s: float
    ) -> None:
        assert fluid_bound_s(100, origin, ups, downs) == pytest.approx(bound_s)

    def test_whole_pieces_cost_one_more_for_each_doubling(self) -> None:
        assert whole_pieces_bound_s(100, 10, 10.0, 1) == pytest.approx(10.0)
        assert whole_pieces_bound_s(100, 10, 10.0, 8) == pytest.approx(13.0)
        assert whole_pieces_bound_s(0, 0, 10.0, 8) == 0.0

    def test_late_comers_and_slow_givers_count(self) -> None:
        late = play(Crowd(1, 3, image_bytes=5 * MB, operations=(At(9.0, Come(0)),)))
        assert late.bound_s == pytest.approx(9.0 + 0.8)
        slow = play(Crowd(1, 2, image_bytes=5 * MB, operations=(At(0.0, Slow(0, 0.1)),)))
        assert slow.whole_pieces_s is None
        assert slow.bound_s == pytest.approx(0.8)
