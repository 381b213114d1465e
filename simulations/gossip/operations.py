"""The operations of gossip scenarios: faults of hosts and of the network, and changes of engines.

``Cut`` drops all packets of one direction, ``Lose`` a share of all. The world carries each fault
out (``simulations.kernel.world``, ``simulations.kernel.network``). The base of all operations is
``simulations.kernel.operations``. Hosts are named by their numbers.
"""

from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from simulations.gossip import babble
from simulations.gossip.codecs import OldCodec
from simulations.gossip.host import CLUSTER, Host
from simulations.gossip.world import World
from simulations.kernel import operations as kernel
from simulations.kernel.operations import At as At

FLAPS_MAX: Final = 1000  # of one operation: a bound on the events of a short period


class Operation(kernel.Operation[World]):
    """Something that is done to a cluster at one moment."""


@dataclass(frozen=True, repr=False)
class OnHost(Operation):
    """An operation on one host; nothing happens if there is no host with that number."""

    host: int

    @override
    def apply(self, world: World) -> None:
        host = world.host(self.host)
        if host is not None:
            self.apply_to(world, host)

    def apply_to(self, world: World, host: Host) -> None:
        """Do it."""
        raise NotImplementedError


def _others(world: World, host: Host) -> list[Host]:
    """Return two hosts that a host which starts is given as seeds."""
    return [other for other in world.online() if other is not host][:2]


# --- engines --------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Hold(OnHost):
    """The host's engine has ``count`` more images, named after ``image``."""

    disturbs = False
    image: str
    count: int = 1
    tag: str = "latest"

    @override
    def apply_to(self, world: World, host: Host) -> None:
        numbered = [f"{self.image}-{i}" for i in range(self.count)]
        world.hold(host, *([self.image] if self.count == 1 else numbered), tag=self.tag)


@dataclass(frozen=True, repr=False)
class Release(OnHost):
    """The host's engine loses the image ``image``, or the first ``count`` that it has."""

    disturbs = False
    image: str = ""
    count: int = 1

    @override
    def apply_to(self, world: World, host: Host) -> None:
        if self.image:
            world.release(host, self.image)
        else:
            world.release(host, *list(host.engine)[: self.count])


# --- processes and machines -----------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Join(Operation):
    """A new host starts, with two others as seeds."""

    @override
    def apply(self, world: World) -> None:
        world.add(join=world.online()[:2])


@dataclass(frozen=True, repr=False)
class Crash(OnHost):
    """kill -9."""

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.kill(host)


@dataclass(frozen=True, repr=False)
class PowerOff(OnHost):
    """The machine is gone."""

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.power_off(host)


@dataclass(frozen=True, repr=False)
class Restart(OnHost):
    """The agent starts again, killed first if it runs. ``wiped``: without its database."""

    wiped: bool = False

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.restart(host, wiped=self.wiped, join=_others(world, host))


@dataclass(frozen=True, repr=False)
class CrashAll(Operation):
    """Every agent is killed at one instant."""

    @override
    def apply(self, world: World) -> None:
        for host in world.online():
            world.kill(host)


@dataclass(frozen=True, repr=False)
class RestartAll(Operation):
    """Every agent is killed and starts again within ``within_s``."""

    wiped: bool = False
    within_s: float = 1.0

    @override
    def apply(self, world: World) -> None:
        hosts = [host for host in world.hosts if not host.clone]
        for host in hosts:
            world.kill(host)
        for place, host in enumerate(hosts):
            at = world.now + self.within_s * place / len(hosts)
            world.schedule(at, self._restart, world, host, host.life)

    def _restart(self, world: World, host: Host, life: int) -> None:
        if host.life == life:
            world.restart(host, wiped=self.wiped, join=_others(world, host))


@dataclass(frozen=True, repr=False)
class Leave(OnHost):
    """SIGTERM: the agent announces its leave and ends."""

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.leave(host)


@dataclass(frozen=True, repr=False)
class Stop(OnHost):
    """SIGSTOP for a while: nothing runs, and inputs are handled late."""

    seconds: float

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.stop(host, self.seconds)


@dataclass(frozen=True, repr=False)
class Block(OnHost):
    """Blocked before sending and after receiving, timers running (Lifeguard §V)."""

    seconds: float

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.block(host, self.seconds)


@dataclass(frozen=True, repr=False)
class Slow(OnHost):
    """Each input takes the host ``cost_s``; 0 ends it."""

    cost_s: float

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.slow(host, self.cost_s)


@dataclass(frozen=True, repr=False)
class Clone(OnHost):
    """A copy of the host's disk starts on a new machine: two agents with one UUID."""

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.clone(host)


@dataclass(frozen=True, repr=False)
class Change(OnHost):
    """The agent is replaced by one of an older release, or by this one: a rolling upgrade."""

    old: bool = False

    @override
    def apply_to(self, world: World, host: Host) -> None:
        codec = OldCodec(CLUSTER) if self.old else world.codec()
        world.restart(host, join=_others(world, host), codec=codec)


# --- clocks and addresses -------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class StepClock(OnHost):
    """The wall clock is set; the next process on the host reads it."""

    disturbs = False
    by_s: float

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.step_clock(host, self.by_s)


@dataclass(frozen=True, repr=False)
class Drift(OnHost):
    """The monotonic clock counts ``rate`` seconds in one."""

    disturbs = False
    rate: float

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.drift(host, self.rate)


@dataclass(frozen=True, repr=False)
class Move(OnHost):
    """The host gets another address; without beacons the operators of the others name it."""

    @override
    def apply_to(self, world: World, host: Host) -> None:
        world.move(host, world.machines.free_address())
        for other in [] if world.beacons else world.online():
            if other is not host and other.stopped_until is None:
                world.join(other, [host])


# --- the network ----------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Split(Operation):
    """The network splits into groups; a host in no group is with the first."""

    groups: tuple[tuple[int, ...], ...]

    @override
    def apply(self, world: World) -> None:
        world.network.partition(*self.groups)


@dataclass(frozen=True, repr=False)
class Cut(Operation):
    """Packets from one host to another are dropped; the other direction stays."""

    source: int
    target: int

    @override
    def apply(self, world: World) -> None:
        world.network.cut(self.source, self.target)


@dataclass(frozen=True, repr=False)
class Heal(Operation):
    """Every split and cut is undone."""

    disturbs = False

    @override
    def apply(self, world: World) -> None:
        world.heal()


@dataclass(frozen=True, repr=False)
class Flap(OnHost):
    """The host's cable has a loose contact: cut off and back every ``period_s``."""

    period_s: float
    seconds: float

    @override
    def apply_to(self, world: World, host: Host) -> None:
        if self.period_s > 0:
            flaps = min(int(self.seconds / self.period_s), FLAPS_MAX)
            self._turn(world, flaps - flaps % 2)

    def _turn(self, world: World, left: int) -> None:
        change = world.network.mend if left % 2 else world.network.cut
        for other in world.hosts if left else []:
            if other.number != self.host:
                change(self.host, other.number)
                change(other.number, self.host)
        if left:
            world.schedule(world.now + self.period_s, self._turn, world, left - 1)


@dataclass(frozen=True, repr=False)
class Lose(Operation):
    """From now on this share of all datagrams is lost."""

    disturbs = False
    share: float

    @override
    def apply(self, world: World) -> None:
        world.network.change(loss=self.share)


@dataclass(frozen=True, repr=False)
class Garble(Operation):
    """From now on these shares of all datagrams arrive twice, or late."""

    disturbs = False
    duplication: float
    reordering: float

    @override
    def apply(self, world: World) -> None:
        world.network.change(duplication=self.duplication, reordering=self.reordering)


@dataclass(frozen=True, repr=False)
class Babble(OnHost):
    """The host sends noise to all: random bytes, broken packets, old packets again."""

    disturbs = False
    seconds: float
    per_s: float = 50.0

    @override
    def apply_to(self, world: World, host: Host) -> None:
        babble.babble(world, host, seconds=self.seconds, per_s=self.per_s)
