"""After random faults in any order a cluster that is left alone ends with one correct state.

A seed is 3 to 8 hosts and 12 faults. ``simulations.gossip.scenario`` plays it with all of its
invariants, and two hosts have a real database. One invariant is added here: hosts that were well
all the time, and on one side of every split, never declare each other down or left. ``python -m
simulations explore`` draws from more kinds of faults, and excuses all verdicts around a split.
"""

from itertools import pairwise

import pytest

from simulations.gossip import operations as ops
from simulations.gossip.operations import At, Operation
from simulations.gossip.scenario import Scenario, play
from simulations.gossip.world import World
from simulations.kernel.chance import stream
from tests.gossip.verdicts import Verdicts

FAULTS = 12
STOP_S_MAX = 12.0
GAPS_S = (0.0, 0.0, 0.02, 0.3, 0.3, 2.0, 2.0, 5.0, 20.0, 70.0)
SILENCE_S = (2.0, 20.0, 70.0)


class Draw:
    """Draws the scenario of one seed.

    Attributes:
      well: hosts that run all the time, and are on the largest side of every split.
    """

    def __init__(self, seed: int) -> None:
        self.random = stream(seed, "faults")
        self.nodes = self.random.randint(3, 8)
        self.well = set(range(self.nodes))
        self._running = set(range(self.nodes))
        self._operations: list[At[Operation]] = []
        self._at_s = self.random.uniform(0.0, 10.0)
        beacons = self.random.random() < 0.7
        kinds = [
            *(self._hold, self._hold, self._hold_many, self._release, self._release),
            *(self._crash, self._crash_all_but_one, self._leave, self._stop),
            *(self._restart, self._restart, self._restart_at_once),
            *(self._split, self._heal, self._heal, self._lose, self._fall_silent),
        ]
        for _ in range(FAULTS):
            self.random.choice(kinds)()
            self._at_s += self.random.choice(GAPS_S)
        self.scenario = Scenario(
            seed=seed,
            nodes=self.nodes,
            operations=tuple(self._operations),
            beacons=beacons,
            together=False,
            stores=(0, 1),
        )

    def _do(self, operation: Operation, after_s: float = 0.0) -> None:
        self._operations.append(At(self._at_s + after_s, operation))

    def _host(self) -> int:
        """Draw a host that runs."""
        return self.random.choice(sorted(self._running))

    def _victim(self) -> int:
        """Draw a host that is not well from now on."""
        host = self._host()
        self.well.discard(host)
        return host

    # --- faults

    def _hold(self) -> None:
        image = self.random.choice(["a", "b", f"image-{len(self._operations)}"])
        self._do(ops.Hold(self._host(), image))

    def _hold_many(self) -> None:
        self._do(ops.Hold(self._host(), "many", self.random.choice([20, 120])))

    def _release(self) -> None:
        self._do(ops.Release(self._host(), count=self.random.choice([1, 2, 20, 200])))

    def _crash(self) -> None:
        if len(self._running) > 1:
            host = self._victim()
            self._do(ops.Crash(host))
            self._running.discard(host)

    def _crash_all_but_one(self) -> None:
        if self.random.random() < 0.2:
            while len(self._running) > 1:
                self._crash()

    def _leave(self) -> None:
        if len(self._running) > 1:
            host = self._victim()
            self._do(ops.Leave(host))
            self._do(ops.Crash(host), after_s=self.random.choice([0.0, 0.005, 0.4]))
            self._running.discard(host)

    def _restart(self) -> None:
        gone = sorted(set(range(self.nodes)) - self._running)
        if gone:
            host = self.random.choice(gone)
            clock_error_s = self.random.choice([0.0, 0.0, -1e9])
            self._do(ops.StepClock(host, clock_error_s))
            self._do(ops.Restart(host, wiped=self.random.random() < 0.6))
            self._do(ops.StepClock(host, -clock_error_s))
            self._running.add(host)

    def _restart_at_once(self) -> None:
        self._crash()
        self._at_s += 0.05
        self._restart()

    def _stop(self) -> None:
        self._do(ops.Stop(self._victim(), self.random.uniform(0.2, STOP_S_MAX)))

    def _split(self) -> None:
        hosts = list(range(self.nodes))
        self.random.shuffle(hosts)
        cuts = sorted(self.random.randint(0, len(hosts)) for _ in range(self.random.randint(1, 2)))
        groups = [tuple(hosts[a:b]) for a, b in pairwise([0, *cuts, len(hosts)])]
        self.well &= {*max(groups, key=len)}
        self._do(ops.Split(tuple(groups)))

    def _heal(self) -> None:
        self._do(ops.Heal())

    def _lose(self) -> None:
        self._do(ops.Lose(self.random.choice([0.0, 0.1, 0.19])))

    def _fall_silent(self) -> None:
        seconds = self.random.choice(SILENCE_S)
        self._do(ops.Flap(self._victim(), seconds, 2 * seconds))  # off once, and on again


@pytest.mark.parametrize("seed", range(150))
def test_after_random_faults_a_cluster_ends_with_one_correct_state(seed: int) -> None:
    draw = Draw(seed)
    verdicts: list[Verdicts] = []

    def prepare(world: World) -> None:
        verdicts.append(Verdicts(world))

    outcome = play(draw.scenario, prepare=prepare)
    assert outcome.violation is None, f"{outcome.violation}\n{outcome.scenario!r}"
    assert outcome.converged_after_s is not None
    wrong = [
        verdict
        for verdict in verdicts[0]
        if verdict.by.number in draw.well
        and verdict.member.node in {outcome.world.hosts[number].id for number in draw.well}
    ]
    assert not wrong, f"{wrong}\n{outcome.scenario!r}"
