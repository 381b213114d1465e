"""The scenarios that have a name: ``python -m simulations list``.

Each is a function of the number of hosts, the seed and the loss. ``list`` prints the first line
of its docstring.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from simulations.gossip import operations as ops
from simulations.gossip.operations import At, Operation
from simulations.gossip.scenario import Scenario
from simulations.kernel.chance import stream

Maker = Callable[[int, int, float], Scenario]
MAKERS: Final[dict[str, Maker]] = {}
SETTLED_FROM: Final = 100
"""Clusters from this size begin settled: to come together from nothing takes them too long."""


def scenario(maker: Maker) -> Maker:
    """Give a scenario its function's name."""
    MAKERS[maker.__name__.replace("_", "-")] = maker
    return maker


def _make(
    nodes: int, seed: int, loss: float, *operations: At[Operation], calm_s: float
) -> Scenario:
    return Scenario(
        seed=seed,
        nodes=nodes,
        operations=operations,
        loss=loss,
        settled=nodes >= SETTLED_FROM,
        calm_s=calm_s,
    )


def _some(random: Random, nodes: int, count: int) -> list[int]:
    return random.sample(range(nodes), min(nodes, count))


@scenario
def idle(nodes: int, seed: int, loss: float) -> Scenario:
    """Nothing happens for a minute: what an idle cluster costs."""
    return _make(nodes, seed, loss, calm_s=60.0)


@scenario
def image(nodes: int, seed: int, loss: float) -> Scenario:
    """One host gets one new image."""
    return _make(nodes, seed, loss, At(5.0, ops.Hold(nodes // 2, "new")), calm_s=15.0)


@scenario
def crash(nodes: int, seed: int, loss: float) -> Scenario:
    """One agent is killed; its machine refuses connections."""
    return _make(nodes, seed, loss, At(5.0, ops.Crash(nodes // 2)), calm_s=30.0)


@scenario
def power_off(nodes: int, seed: int, loss: float) -> Scenario:
    """One machine loses its power."""
    return _make(nodes, seed, loss, At(5.0, ops.PowerOff(nodes // 2)), calm_s=60.0)


@scenario
def leave(nodes: int, seed: int, loss: float) -> Scenario:
    """One agent leaves in good order."""
    return _make(nodes, seed, loss, At(5.0, ops.Leave(nodes // 2)), calm_s=15.0)


@scenario
def split(nodes: int, seed: int, loss: float) -> Scenario:
    """Two halves that do not reach each other for ten minutes."""
    half = nodes // 2
    groups = (tuple(range(half)), tuple(range(half, nodes)))
    operations = (At(5.0, ops.Split(groups)), At(605.0, ops.Heal()))
    return _make(nodes, seed, loss, *operations, calm_s=30.0)


@scenario
def flash_restart(nodes: int, seed: int, loss: float) -> Scenario:
    """Every agent is killed and starts again within five seconds, as after a power cut."""
    return _make(nodes, seed, loss, At(5.0, ops.RestartAll(within_s=5.0)), calm_s=30.0)


@scenario
def rolling_upgrade(nodes: int, seed: int, loss: float) -> Scenario:
    """Half of all hosts speak an older wire version, and are upgraded one by one."""
    old = tuple(range(0, nodes, 2))
    upgrades = [At(5.0 + 2.0 * i, ops.Change(host)) for i, host in enumerate(old)]
    images = [At(6.0 + 2.0 * i, ops.Hold(host, f"new-{host}")) for i, host in enumerate(old)]
    return Scenario(seed, nodes, (*upgrades, *images), loss=loss, old=old, calm_s=15.0)


@scenario
def pauses(nodes: int, seed: int, loss: float) -> Scenario:
    """A quarter of all hosts are blocked in lock-step, 8 s of every 10, for a minute."""
    blocked = _some(stream(seed, "pauses"), nodes, max(1, nodes // 4))
    operations: list[At[Operation]] = [
        At(5.0 + 10.0 * i, ops.Block(host, 8.0)) for i in range(6) for host in blocked
    ]
    return _make(nodes, seed, loss, *operations, calm_s=30.0)


@scenario
def lifeguard_threshold(nodes: int, seed: int, loss: float) -> Scenario:
    """An eighth of all hosts are blocked once, for 32.8 s: Lifeguard's threshold experiment."""
    blocked = _some(stream(seed, "lifeguard"), nodes, max(1, nodes // 8))
    return _make(nodes, seed, loss, *[At(5.0, ops.Block(h, 32.768)) for h in blocked], calm_s=48.0)


@scenario
def lifeguard_interval(nodes: int, seed: int, loss: float) -> Scenario:
    """An eighth are blocked 8.2 s of every 9.2 for two minutes: Lifeguard's interval experiment."""
    blocked = _some(stream(seed, "lifeguard"), nodes, max(1, nodes // 8))
    begins = [5.0 + 9.216 * number for number in range(14)]
    operations: list[At[Operation]] = [
        At(when, ops.Block(host, 8.192)) for when in begins for host in blocked
    ]
    return _make(nodes, seed, loss, *operations, calm_s=23.0)


@scenario
def slow_hosts(nodes: int, seed: int, loss: float) -> Scenario:
    """A tenth of all hosts need 50 ms for each message."""
    slow = _some(stream(seed, "slow"), nodes, max(1, nodes // 10))
    return _make(nodes, seed, loss, *[At(5.0, ops.Slow(host, 0.05)) for host in slow], calm_s=60.0)


@scenario
def flapping(nodes: int, seed: int, loss: float) -> Scenario:
    """One host's cable has a loose contact for a minute."""
    return _make(nodes, seed, loss, At(5.0, ops.Flap(nodes // 2, 1.5, 60.0)), calm_s=75.0)


@scenario
def babbler(nodes: int, seed: int, loss: float) -> Scenario:
    """One host sends noise and old packets to all, 500 a second."""
    return _make(nodes, seed, loss, At(5.0, ops.Babble(0, 30.0, per_s=500.0)), calm_s=40.0)


@scenario
def twins(nodes: int, seed: int, loss: float) -> Scenario:
    """A second machine with the UUID of the first, for a minute."""
    return _make(nodes, seed, loss, At(5.0, ops.Clone(0)), calm_s=60.0)


@scenario
def steady(nodes: int, seed: int, loss: float) -> Scenario:
    """Ten minutes with an image every six seconds, and a crash and a restart every minute."""
    random = stream(seed, "steady")
    operations: list[At[Operation]] = []
    for minute in range(10):
        host = random.randrange(nodes)
        operations.append(At(60.0 * minute + 10.0, ops.Crash(host)))
        operations.append(At(60.0 * minute + 40.0, ops.Restart(host)))
        operations += [At(60.0 * minute + 6.0 * i, _image(random, nodes)) for i in range(10)]
    return _make(nodes, seed, loss, *operations, calm_s=5.0)


@scenario
def large(nodes: int, seed: int, loss: float) -> Scenario:
    """One minute with a failure and 100 image events: for ten thousand hosts."""
    random = stream(seed, "large")
    operations: list[At[Operation]] = [
        At(round(1.0 + 0.5 * i, 3), _image(random, nodes)) for i in range(100)
    ]
    operations.append(At(10.0, ops.Crash(nodes // 2)))
    return _make(nodes, seed, loss, *operations, calm_s=3.5)


def _image(random: Random, nodes: int) -> Operation:
    """Half of all images are new to all hosts; the others some host had before."""
    host = random.randrange(nodes)
    return ops.Hold(host, random.choice([f"new-{random.getrandbits(32)}", "popular"]))
