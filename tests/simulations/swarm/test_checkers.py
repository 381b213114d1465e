"""Each invariant of a crowd notices what it is there for."""

import pytest

from beiran.swarm.effects import PeerBanned
from beiran.swarm.node import SwarmNode
from simulations.swarm.checkers import Checkers
from simulations.swarm.image_pull import ImagePull
from simulations.swarm.scenario import Crowd, play

MB = 1_000_000


class TestCheckers:
    """Each sees what it is there to see."""

    @pytest.fixture
    def pull(self) -> ImagePull:
        return play(Crowd(1, 3, image_bytes=2 * MB, layers=1)).pull

    def invariant(self, checkers: Checkers) -> str:
        assert checkers.violation is not None
        return checkers.violation.invariant

    def test_a_crowd_that_ended_well(self, pull: ImagePull) -> None:
        checkers = Checkers(pull, calm=True)
        checkers.at_end()
        checkers.at_rest()
        assert checkers.violation is None

    def test_wrong_bytes(self, pull: ImagePull) -> None:
        host, digest = pull.hosts[0], pull.blobs[0].digest
        host.file[digest, 0] = ("h2",)
        checkers = Checkers(pull, calm=True)
        checkers.at_end()
        assert self.invariant(checkers) == "wrong bytes are kept"

    def test_an_origin_that_gave_twice(self, pull: ImagePull) -> None:
        pull.world.origin.sent_bytes *= 3
        checkers = Checkers(pull, calm=True)
        checkers.at_end()
        assert self.invariant(checkers) == "the origin gives too much"

    def test_an_honest_host_that_is_banned(self, pull: ImagePull) -> None:
        first, second, third = pull.hosts
        checkers = Checkers(pull, calm=True)
        pull.liars.add(third.id)
        pull.world.do(first, [PeerBanned(third.id, "it flips bytes")])
        checkers.look()
        assert checkers.violation is None
        pull.world.do(first, [PeerBanned(second.id, "no evidence")])
        checkers.look()
        assert self.invariant(checkers) == "an honest host is banned"

    def test_an_exception_of_the_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise KeyError("piece")

        monkeypatch.setattr(SwarmNode, "piece_arrived", broken)
        outcome = play(Crowd(1, 2, image_bytes=2 * MB))
        assert outcome.violation is not None
        assert outcome.violation.invariant == "the core raised"
