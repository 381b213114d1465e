"""The operations of crowds: faults of hosts and of the origin, and hosts that come late.

The base of all operations is ``simulations.kernel.operations``. Hosts are named by their numbers.
"""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from simulations.kernel import operations as kernel
from simulations.kernel.operations import At as At
from simulations.swarm.host import Host
from simulations.swarm.image_pull import ImagePull


class Operation(kernel.Operation[ImagePull]):
    """Something that is done to a crowd at one moment.

    Where ``disturbs`` is False the origin has no reason to give anything twice.
    """


@dataclass(frozen=True, repr=False)
class OnHost(Operation):
    """An operation on one host; nothing happens if there is no host with that number.

    Attributes:
      role: the name of the host on which it acts, in reports; empty if it has none.
    """

    role: ClassVar[str] = ""
    host: int

    @override
    def apply(self, pull: ImagePull) -> None:
        host = pull.world.host(self.host)
        if host is not None:
            self.apply_to(pull, host)

    def apply_to(self, pull: ImagePull, host: Host) -> None:
        """Do it."""
        raise NotImplementedError


# --- hosts that want or have the image ------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Come(OnHost):
    """The host is a member from the start, and wants the image from now on."""

    disturbs = False
    role = "late"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.online:
            pull.want(host)


@dataclass(frozen=True, repr=False)
class Join(Operation):
    """A new host becomes a member and wants the image."""

    disturbs = False

    @override
    def apply(self, pull: ImagePull) -> None:
        pull.join()


@dataclass(frozen=True, repr=False)
class Have(OnHost):
    """The host has the whole image from elsewhere."""

    disturbs = False
    role = "holder"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.online:
            pull.have(host)


@dataclass(frozen=True, repr=False)
class GiveUp(OnHost):
    """The host no longer wants the image; its agent runs on."""

    role = "gave up"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.running:
            pull.unwanted(host)
            pull.world.give_up(host, host.sizes)


# --- processes and machines -----------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Leave(OnHost):
    """The agent ends in good order, and what it has is gone with it."""

    role = "leaver"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.running:
            pull.unwanted(host)
            pull.world.leave(host)


@dataclass(frozen=True, repr=False)
class Kill(OnHost):
    """The agent is killed; the others learn it a little later."""

    role = "killed"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.running:
            pull.world.kill(host)


@dataclass(frozen=True, repr=False)
class Restart(OnHost):
    """An agent that ended starts again and continues. ``wiped``: without its cache."""

    wiped: bool = False

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if not host.running:
            pull.restart(host, wiped=self.wiped)


@dataclass(frozen=True, repr=False)
class Unplug(OnHost):
    """The host's cable is out: no connection breaks, and no byte moves."""

    role = "unplugged"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.online:
            pull.world.unplug(host)


@dataclass(frozen=True, repr=False)
class PlugIn(OnHost):
    """The cable is in again."""

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if not host.up:
            pull.world.plug_in(host, pull.link_bytes_per_s, pull.link_bytes_per_s)


@dataclass(frozen=True, repr=False)
class Slow(OnHost):
    """The host sends no more than ``up_bytes_per_s`` from now on."""

    role = "slow"
    up_bytes_per_s: float = 10_000.0

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        if host.online:
            pull.world.limit_uplink(host, self.up_bytes_per_s)


# --- misbehaving hosts ----------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Flip(OnHost):
    """The host flips bytes that it sends from now on; the hashes that it announces are right."""

    role = "liar"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        host.spoils = True
        pull.liars.add(host.id)


@dataclass(frozen=True, repr=False)
class Forge(OnHost):
    """The host flips bytes, and announces hashes that fit them."""

    role = "forger"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        host.spoils = host.lies = True
        pull.liars.add(host.id)


# --- the origin and the network -------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Refuse(OnHost):
    """The origin denies the host everything from now on."""

    role = "refused"

    @override
    def apply_to(self, pull: ImagePull, host: Host) -> None:
        pull.world.origin.refused.add(host.id)


@dataclass(frozen=True, repr=False)
class OriginAway(Operation):
    """The origin answers no new request for a while; transfers that run continue."""

    seconds: float

    @override
    def apply(self, pull: ImagePull) -> None:
        pull.world.origin.up = False
        pull.world.schedule(pull.world.now + self.seconds, self._return, pull)

    def _return(self, pull: ImagePull) -> None:
        pull.world.origin.up = True


@dataclass(frozen=True, repr=False)
class OriginRate(Operation):
    """The origin sends no more than ``bytes_per_s`` from now on."""

    bytes_per_s: float

    @override
    def apply(self, pull: ImagePull) -> None:
        pull.world.flows.set_rate(pull.world.origin.pipe, self.bytes_per_s)


@dataclass(frozen=True, repr=False)
class Lose(Operation):
    """From now on this share of all datagrams is lost."""

    share: float

    @override
    def apply(self, pull: ImagePull) -> None:
        pull.world.network.change(loss=self.share)
