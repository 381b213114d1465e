"""What may befall a crowd, as values that print as the Python that makes them.

    At(3.0, Kill(2))

Hosts are named by their number. An operation that makes no sense when its time comes (killing what
does not run) does nothing, so that a list of operations stays valid whatever is taken out of it.
"""

from dataclasses import dataclass
from typing import ClassVar

from simulations.kernel.notation import call_text
from simulations.swarm.crowd import Stage


class Operation:
    """Something that is done to a crowd at one moment.

    Attributes:
      harmless: nobody is worse off for it, so the origin gives nothing twice because of it.
      role: what the host is called that it befalls; empty if it is called nothing.
    """

    harmless: ClassVar[bool] = False
    role: ClassVar[str] = ""

    def __call__(self, stage: Stage) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return call_text(self)


@dataclass(frozen=True, slots=True)
class At:
    """An operation, and when: seconds after the crowd began."""

    at_s: float
    do: Operation

    def __repr__(self) -> str:
        return f"At({self.at_s!r}, {self.do!r})"


@dataclass(frozen=True, repr=False)
class Come(Operation):
    """A host is a member all the time, and wants the image only now."""

    harmless = True
    role = "late"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.reachable:
            stage.pull(host)


@dataclass(frozen=True, repr=False)
class Join(Operation):
    """A new host turns up, becomes a member, and wants the image."""

    harmless = True

    def __call__(self, stage: Stage) -> None:
        stage.join()


@dataclass(frozen=True, repr=False)
class Have(Operation):
    """A host has the image whole, from elsewhere."""

    harmless = True
    role = "holder"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.reachable:
            stage.have(host)


@dataclass(frozen=True, repr=False)
class GiveUp(Operation):
    """Nobody at a host wants the image any more; its agent goes on."""

    role = "gave up"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.running:
            stage.unwanted(host)
            stage.world.give_up(host, host.sizes)


@dataclass(frozen=True, repr=False)
class Leave(Operation):
    """An agent ends in good order, and takes with it what it has."""

    role = "leaver"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.running:
            stage.unwanted(host)
            stage.world.leave(host)


@dataclass(frozen=True, repr=False)
class Kill(Operation):
    """An agent is killed; the others learn it a little later."""

    role = "killed"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.running:
            stage.world.kill(host)


@dataclass(frozen=True, repr=False)
class Restart(Operation):
    """An agent that ended or was killed starts again, and goes on. ``wiped``: without its cache."""

    host: int
    wiped: bool = False

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and not host.running:
            stage.restart(host, wiped=self.wiped)


@dataclass(frozen=True, repr=False)
class Unplug(Operation):
    """A host's cable is out: nothing breaks, nothing moves."""

    role = "unplugged"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.reachable:
            stage.world.silence(host)


@dataclass(frozen=True, repr=False)
class PlugIn(Operation):
    """A cable is in again."""

    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.silent:
            rate = stage.link_bytes_per_s
            stage.world.plug_in(host, rate, rate)


@dataclass(frozen=True, repr=False)
class Slow(Operation):
    """A host gives no more than so many bytes a second from now on."""

    role = "slow"
    host: int
    up_bytes_per_s: float = 10_000.0

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None and host.reachable:
            stage.world.slow_down(host, self.up_bytes_per_s)


@dataclass(frozen=True, repr=False)
class Flip(Operation):
    """A host flips bytes of what it gives from now on; the hashes that it announces are right."""

    role = "liar"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None:
            host.spoils = True
            stage.liars.add(host.id)


@dataclass(frozen=True, repr=False)
class Forge(Operation):
    """A host flips bytes, and announces hashes that fit them."""

    role = "forger"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None:
            host.spoils = host.lies = True
            stage.liars.add(host.id)


@dataclass(frozen=True, repr=False)
class Refuse(Operation):
    """The origin denies a host everything from now on."""

    role = "refused"
    host: int

    def __call__(self, stage: Stage) -> None:
        host = stage.host(self.host)
        if host is not None:
            stage.world.origin.refused.add(host.id)


@dataclass(frozen=True, repr=False)
class OriginAway(Operation):
    """The origin answers nobody for a while; what flows, flows on."""

    seconds: float

    def __call__(self, stage: Stage) -> None:
        origin, heap = stage.world.origin, stage.world.heap
        origin.up = False

        def back() -> None:
            origin.up = True

        heap.at(heap.now + self.seconds, back)


@dataclass(frozen=True, repr=False)
class OriginRate(Operation):
    """The origin gives no more than so many bytes a second from now on."""

    bytes_per_s: float

    def __call__(self, stage: Stage) -> None:
        stage.world.network.set_rate(stage.world.origin.link, self.bytes_per_s)


@dataclass(frozen=True, repr=False)
class Lose(Operation):
    """Datagrams are lost from now on: this share."""

    share: float

    def __call__(self, stage: Stage) -> None:
        stage.world.loss = self.share
