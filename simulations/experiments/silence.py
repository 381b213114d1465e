"""A host loses its power: how long until all others hold it for down, beside serf.

Nothing refuses a connection, so silence is the only evidence. Each trial is a cluster that came
together long ago, one host of which ends at a random instant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, MemberChanged
from beiran.gossip.membership.member import Status
from simulations.experiments.configs import OURS, SERF
from simulations.experiments.table import (
    Experiment,
    Options,
    Progress,
    Row,
    mean,
    median,
    percentile,
    run_trials,
)
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.chance import stream
from simulations.kernel.links import Link

WARM_S: Final = 3.0  # until the probes of a cluster that was made at once have lost their step
WITHIN_S: Final = 60.0
SERF_SHARE_MAX: Final = 0.6  # the target, of serf's time


@dataclass(frozen=True)
class Death:
    """When a silent host was first suspected, first down, and down for all, in seconds."""

    suspected_s: float
    down_s: float
    everywhere_s: float


@dataclass(frozen=True)
class Silence:
    """One trial: the ``number``-th of its kind."""

    config: GossipConfig
    nodes: int
    seed: int
    number: int = 0
    loss: float = 0.0


def death(trial: Silence) -> Death:
    """Run one trial."""
    world = World(
        seed=trial.seed * 100_003 + trial.number,
        link=Link(loss=trial.loss),
        config=trial.config,
        beacons=False,
    )
    hosts = world.settled(trial.nodes)
    chance = stream(trial.seed, "silence", trial.nodes, trial.number)
    world.run(WARM_S + 4.0 * chance.random())
    victim = hosts[chance.randrange(trial.nodes)]
    ended_at = world.now
    at: dict[Status, list[float]] = {status: [] for status in Status}

    def note(host: Host, effect: Effect) -> None:
        if isinstance(effect, MemberChanged) and effect.member.node == victim.id:
            at[effect.member.status].append(world.now - ended_at)

    world.found.append(note)
    world.power_off(victim)
    world.run_until(
        lambda: len(at[Status.DOWN]) >= trial.nodes - 1, within_s=WITHIN_S, every_s=0.01
    )
    return Death(at[Status.SUSPECT][0], at[Status.DOWN][0], max(at[Status.DOWN]))


def deaths(
    cases: Sequence[tuple[Silence, int]], jobs: int, progress: Progress
) -> list[list[Death]]:
    """Return the trials of each case, as many as it asks for."""
    trials = [replace(case, number=number) for case, count in cases for number in range(count)]
    found = iter(run_trials(death, trials, jobs, progress))
    return [list(islice(found, count)) for _, count in cases]


def silence(options: Options, progress: Progress) -> list[Row]:
    """Compare our times and serf's at several sizes."""
    trials = options.trials_or(200)
    sizes = options.sizes(20, 50)
    cases = [
        (Silence(config, nodes, options.seed), trials) for nodes in sizes for config in (SERF, OURS)
    ]
    found = deaths(cases, options.jobs, progress)
    rows: list[Row] = []
    for nodes, serf, ours in zip(sizes, found[::2], found[1::2], strict=True):
        rows += [_row("serf", nodes, serf, serf), _row("ours", nodes, ours, serf)]
    return rows


def _row(who: str, nodes: int, found: Sequence[Death], serf: Sequence[Death]) -> Row:
    times = [trial.everywhere_s for trial in found]
    theirs = [trial.everywhere_s for trial in serf]
    share = median(times) / median(theirs)
    worst = max(times) / max(theirs)
    met = "" if who == "serf" else "yes" if max(share, worst) <= SERF_SHARE_MAX else "NO"
    return {
        "who": who,
        "nodes": nodes,
        "trials": len(found),
        "suspected_mean_s": mean([trial.suspected_s for trial in found]),
        "suspected_worst_s": max(trial.suspected_s for trial in found),
        "everywhere_median_s": median(times),
        "everywhere_p99_s": percentile(times, 0.99),
        "everywhere_worst_s": max(times),
        "median_of_serf": share,
        "worst_of_serf": worst,
        "target": "" if who == "serf" else f"<= {SERF_SHARE_MAX} of serf's",
        "met": met,
    }


EXPERIMENTS: Final = (
    Experiment(
        "silence", "a host without power is offline everywhere in 0.6 of serf's time", silence
    ),
)
