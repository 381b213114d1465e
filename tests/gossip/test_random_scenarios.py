"""After random faults, a cluster converges to one correct state.

A scenario is a seed: 3 to 8 hosts, random faults at random times, then quiet. Each bug that the
search finds gets a test of its own. ``python -m tests.gossip.test_random_scenarios FIRST LAST``
searches more seeds.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from beiran.gossip.effects import HoldingsChanged
from beiran.gossip.membership.member import Status
from beiran.ids import NodeId
from tests.gossip.world import Host, World, remember

STEPS = 12
PAUSE_S_MAX = 12.0
REST_S = PAUSE_S_MAX + 20.0
"""Until the last pause is over, and what was suspected is refuted or down."""
QUIET_S = 120.0
"""A deaf node holds its verdicts for 60 s, and probes rarely while it doubts itself."""


class Scenario:
    """One cluster and what befalls it.

    Attributes:
      well: IDs of hosts that ran all the time and were never cut off from each other.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = World(seed, broadcast=self.random.random() < 0.7)
        self.names = 0
        first = self._add()
        for _ in range(self.random.randint(2, 7)):
            self._add(join=first)
        self.world.run(self.random.uniform(0.0, 10.0))
        self.well = {host.id for host in self.world.running()}
        self.gone: list[Host] = []

    def play(self) -> None:
        """Let everything happen that does, and then nothing."""
        for _ in range(STEPS):
            self.random.choice(self._mishaps())()
            self.world.run(
                self.random.choice([0.0, 0.0, 0.02, 0.3, 0.3, 2.0, 2.0, 5.0, 20.0, 70.0])
            )
        self.world.loss = 0.0
        self.world.heal()
        for host in self.world.running():
            host.silent = False

    def _mishaps(self) -> list[Callable[[], None]]:
        return [
            self._hold,
            self._hold,
            self._hold_many,
            self._release,
            self._release,
            self._kill,
            self._kill_all_but_one,
            self._restart,
            self._restart,
            self._restart_at_once,
            self._pause,
            self._partition,
            self._heal,
            self._lose,
            self._leave,
            self._fall_silent,
            self._speak_again,
        ]

    # --- mishaps

    def _hold(self) -> None:
        if host := self._any():
            self.names += 1
            shared = self.random.choice(["a", "b", f"image-{self.names}"])
            self.world.hold(host, shared)

    def _hold_many(self) -> None:
        if host := self._any():
            self.world.hold(host, *(f"many-{i}" for i in range(self.random.choice([20, 120]))))

    def _release(self) -> None:
        if host := self._any():
            held = host.node.possession.holdings(host.id)
            some = self.random.sample(held, self.random.randint(0, len(held)))
            images = [holding.image for holding in some]
            self.world.do(host, host.node.release(images, now=self.world.now))

    def _kill(self) -> None:
        if host := self._any():
            self.well.discard(host.id)
            self.world.kill(host)
            self.gone.append(host)

    def _kill_all_but_one(self) -> None:
        if self.random.random() < 0.2:
            for _ in self.world.running()[1:]:
                self._kill()

    def _restart(self) -> None:
        if self.gone:
            host = self.gone.pop(self.random.randrange(len(self.gone)))
            wiped, clock_back = self.random.choice(
                [(False, False), (False, True), (True, False), (True, False), (True, True)]
            )
            self._start_again(host, wiped=wiped, clock_back=clock_back)

    def _restart_at_once(self) -> None:
        self._kill()
        self.world.run(0.05)
        self._restart()

    def _pause(self) -> None:
        if host := self._any():
            self.well.discard(host.id)
            self.world.pause(host, self.random.uniform(0.2, PAUSE_S_MAX))

    def _partition(self) -> None:
        hosts = list(self.world.hosts.values())
        self.random.shuffle(hosts)
        cuts = sorted(self.random.randint(0, len(hosts)) for _ in range(self.random.randint(1, 2)))
        places = [0, *cuts, len(hosts)]
        groups = [hosts[a:b] for a, b in pairwise(places)]
        together = {host.id for host in max(groups, key=len)}
        self.well = {node for node in self.well if node in together}
        self.world.partition(*groups)

    def _heal(self) -> None:
        self.world.heal()

    def _lose(self) -> None:
        self.world.loss = self.random.choice([0.0, 0.05, 0.1])

    def _leave(self) -> None:
        if host := self._any():
            self.well.discard(host.id)
            self.world.do(host, host.node.leave(now=self.world.now))
            self.world.run(self.random.choice([0.0, 0.005, 0.4]))
            self.world.kill(host)
            self.gone.append(host)

    def _fall_silent(self) -> None:
        if host := self._any():
            self.well.discard(host.id)
            host.silent = True

    def _speak_again(self) -> None:
        for host in self.world.hosts.values():
            host.silent = False

    # --- inside

    def _any(self) -> Host | None:
        hosts = [host for host in self.world.running() if host.paused_until is None]
        return self.random.choice(hosts) if len(hosts) > 1 else None

    def _add(self, join: Host | None = None) -> Host:
        return self.world.add(
            version=int(self.world.now * 1000),
            generation=int(self.world.now),
            join=[join.address] if join else [],
        )

    def _start_again(self, host: Host, *, wiped: bool, clock_back: bool) -> None:
        own, node = host.node.own, host.node
        known = [node.descriptions.get(image) for image in sorted(host.described)]
        held = node.possession.holdings(own.node)
        others = [other.address for other in self.world.running()]
        last = (0, 0) if wiped else (own.generation, node.possession.version(own.node))
        clock_s = 7 if clock_back else self.world.now
        self.world.add(
            own.name,
            generation=max(last[0] + 1, int(clock_s)),
            version=max(last[1] + 1, int(clock_s * 1000)),
            node_id=own.node,
            remembered=() if wiped else remember(host),
            holdings=() if wiped else held,
            descriptions=() if wiped else [description for description in known if description],
            rows=None if wiped else host.rows,
            address=host.address,
            join=others[:2],
        )


class OwnVersions:
    """Watches that no host's own version, and no copy of it, goes backwards within a life."""

    def __init__(self, world: World) -> None:
        self.backwards: list[str] = []
        self._last: dict[tuple[int, NodeId], int] = {}
        do = world.do

        def watch(host: Host, effects: list) -> None:  # type: ignore[type-arg]
            for effect in effects:
                if isinstance(effect, HoldingsChanged):
                    key = (id(host), effect.owner)
                    if effect.version < self._last.get(key, 0):
                        self.backwards.append(f"{effect.owner.hex()} at {world.now}")
                    self._last[key] = effect.version
            do(host, effects)

        world.do = watch  # type: ignore[method-assign]


def run_scenario(seed: int) -> Scenario:
    scenario = Scenario(seed)
    versions = OwnVersions(scenario.world)
    scenario.play()
    world = scenario.world
    world.run(REST_S)
    world.run_until(world.converged, within_s=QUIET_S)
    world.run(5.0)
    assert world.converged(), f"it did not stay so:\n{world.differences()}"
    assert versions.backwards == []
    assert false_verdicts(scenario) == []
    assert len({host.node.members.state_hash for host in world.running()}) == 1, world.differences()
    for host in world.running():
        unheld = [i for i in sorted(host.described) if not host.node.possession.is_held(i)]
        assert not unheld, f"{host.node.own.name} keeps descriptions of unheld images: {unheld}"
    return scenario


def false_verdicts(scenario: Scenario) -> list[str]:
    """Hosts well all the time that were declared down by hosts well all the time."""
    return [
        f"{host.node.own.name} held {event.member.name} for {event.member.status.name} at {at:.2f}"
        for host in scenario.world.hosts.values()
        if host.id in scenario.well
        for at, event in host.events
        if event.member.node in scenario.well and event.member.status >= Status.DOWN
    ]


@pytest.mark.parametrize("seed", range(150))
def test_after_any_mishaps_a_cluster_comes_to_one_right_state(seed: int) -> None:
    run_scenario(seed)


if __name__ == "__main__":
    for chosen in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            run_scenario(chosen)
        except BaseException as error:  # report each failure, and continue the search
            print(chosen, type(error).__name__, str(error)[:1500], flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise
        if chosen % 500 == 499:
            print(f"{chosen + 1} done", flush=True)
