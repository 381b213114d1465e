"""What may befall a cluster, as values that print as the Python that makes them.

    At(3.0, Crash(2))

Hosts are named by their number. An operation that makes no sense when its time comes (killing what
does not run) does nothing, so that a list of operations stays valid whatever is taken out of it.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from simulations.gossip import babble
from simulations.gossip.host import Host
from simulations.gossip.old_wire import OldCodec
from simulations.gossip.world import CLUSTER, World
from simulations.kernel.notation import call_text

FLAPS_MAX: Final = 1000


class Operation:
    """Something that is done to a world at one moment.

    Attributes:
      disturbs: whether a host, or the way between two, is worse off for it: what follows is not
        the members' fault for a while.
    """

    disturbs: ClassVar[bool] = True

    def __call__(self, world: World) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return call_text(self)


@dataclass(frozen=True, slots=True)
class At:
    """An operation, and when: seconds after the cluster's start."""

    at_s: float
    do: Operation

    def __repr__(self) -> str:
        return f"At({self.at_s!r}, {self.do!r})"


def _host(world: World, number: int) -> Host | None:
    return world.hosts[number] if 0 <= number < len(world.hosts) else None


def _others(world: World, host: Host) -> list[Host]:
    return [other for other in world.online() if other is not host][:2]


@dataclass(frozen=True, repr=False)
class Hold(Operation):
    """The engine of a host has ``count`` more images, named after ``image``."""

    disturbs = False
    host: int
    image: str
    count: int = 1
    tag: str = "latest"

    def __call__(self, world: World) -> None:
        host = _host(world, self.host)
        names = (
            [self.image] if self.count == 1 else [f"{self.image}-{i}" for i in range(self.count)]
        )
        if host is not None:
            world.hold(host, *names, tag=self.tag)


@dataclass(frozen=True, repr=False)
class Release(Operation):
    """The engine of a host loses the image ``image``, or the first ``count`` of all it has."""

    disturbs = False
    host: int
    image: str = ""
    count: int = 1

    def __call__(self, world: World) -> None:
        host = _host(world, self.host)
        if host is None:
            return
        if self.image:
            world.release(host, self.image)
        else:
            world.release(host, *list(host.engine)[: self.count])


@dataclass(frozen=True, repr=False)
class Join(Operation):
    """A new host comes, and is told of two others."""

    def __call__(self, world: World) -> None:
        world.add(join=world.online()[:2])


@dataclass(frozen=True, repr=False)
class Crash(Operation):
    """kill -9."""

    host: int

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.kill(host)


@dataclass(frozen=True, repr=False)
class PowerOff(Operation):
    """The machine is gone."""

    host: int

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.power_off(host)


@dataclass(frozen=True, repr=False)
class Restart(Operation):
    """The agent starts again, killed first if it runs."""

    host: int
    wiped: bool = False

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.restart(host, wiped=self.wiped, join=_others(world, host))


@dataclass(frozen=True, repr=False)
class CrashAll(Operation):
    """Every agent is killed at one instant."""

    def __call__(self, world: World) -> None:
        for host in world.online():
            world.kill(host)


@dataclass(frozen=True, repr=False)
class RestartAll(Operation):
    """Every agent starts again within ``within_s``, those that ran killed first."""

    wiped: bool = False
    within_s: float = 1.0

    def __call__(self, world: World) -> None:
        hosts = [host for host in world.hosts if not host.clone]
        for host in hosts:
            world.kill(host)
        for place, host in enumerate(hosts):
            at = world.now + self.within_s * place / len(hosts)
            world.schedule(at, self._again, world, host, host.life)

    def _again(self, world: World, host: Host, life: int) -> None:
        if host.life == life:
            world.restart(host, wiped=self.wiped, join=_others(world, host))


@dataclass(frozen=True, repr=False)
class Leave(Operation):
    """SIGTERM: the agent says goodbye."""

    host: int

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.leave(host)


@dataclass(frozen=True, repr=False)
class Stop(Operation):
    """SIGSTOP for a while: nothing runs, and what comes is handled late."""

    host: int
    seconds: float

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.stop(host, self.seconds)


@dataclass(frozen=True, repr=False)
class Block(Operation):
    """Blocked just before sending and just after receiving, timers running: as in Lifeguard's."""

    host: int
    seconds: float

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.block(host, self.seconds)


@dataclass(frozen=True, repr=False)
class Slow(Operation):
    """Each input takes the host so long; 0 ends it."""

    host: int
    cost_s: float

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.slow(host, self.cost_s)


@dataclass(frozen=True, repr=False)
class StepClock(Operation):
    """The wall clock of a host is set; the next life sees it."""

    disturbs = False
    host: int
    by_s: float

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.step_clock(host, self.by_s)


@dataclass(frozen=True, repr=False)
class Drift(Operation):
    """The monotonic clock of a host counts ``rate`` seconds in one."""

    disturbs = False
    host: int
    rate: float

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.drift(host, self.rate)


@dataclass(frozen=True, repr=False)
class Split(Operation):
    """The network falls apart into groups; who is in none is with the first."""

    groups: tuple[tuple[int, ...], ...]

    def __call__(self, world: World) -> None:
        world.network.partition(*(list(group) for group in self.groups))


@dataclass(frozen=True, repr=False)
class Cut(Operation):
    """Nothing gets from one host to another any more; the way back stays."""

    source: int
    target: int

    def __call__(self, world: World) -> None:
        world.network.cut(self.source, self.target)


@dataclass(frozen=True, repr=False)
class Heal(Operation):
    """Every split and cut is undone."""

    disturbs = False

    def __call__(self, world: World) -> None:
        world.heal()


@dataclass(frozen=True, repr=False)
class Flap(Operation):
    """The cable of a host has a loose contact: cut off and back every ``period_s``."""

    host: int
    period_s: float
    seconds: float

    def __call__(self, world: World) -> None:
        if _host(world, self.host) is not None and self.period_s > 0:
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

    def __call__(self, world: World) -> None:
        world.network.change(loss=self.share)


@dataclass(frozen=True, repr=False)
class Garble(Operation):
    """From now on so many datagrams come twice, and so many late."""

    disturbs = False
    duplication: float
    reordering: float

    def __call__(self, world: World) -> None:
        world.network.change(duplication=self.duplication, reordering=self.reordering)


@dataclass(frozen=True, repr=False)
class Babble(Operation):
    """A host sends noise to everybody: random bytes, broken packets, old packets again."""

    disturbs = False
    host: int
    seconds: float
    per_s: float = 50.0

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            babble.babble(world, host, seconds=self.seconds, per_s=self.per_s)


@dataclass(frozen=True, repr=False)
class Clone(Operation):
    """A copy of a host's disk starts on a new machine: two with one UUID."""

    host: int

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.clone(host)


@dataclass(frozen=True, repr=False)
class Move(Operation):
    """A host gets another address; where there are no beacons, the others are told of it."""

    host: int

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            world.move(host, world.new_address())
            for other in [] if world.beacons else world.online():
                if other is not host and other.stopped_until is None:
                    world.join(other, [host])


@dataclass(frozen=True, repr=False)
class Change(Operation):
    """A host's agent is replaced by one of an older release, or by this one: a rolling upgrade."""

    host: int
    old: bool = False

    def __call__(self, world: World) -> None:
        if host := _host(world, self.host):
            codec = OldCodec(CLUSTER) if self.old else world.codec()
            world.restart(host, join=_others(world, host), codec=codec)
