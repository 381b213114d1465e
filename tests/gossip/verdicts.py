"""The verdicts that the hosts of a simulated cluster reach about members."""

from collections.abc import Iterable
from typing import NamedTuple

from beiran.gossip.effects import Effect, MemberChanged
from beiran.gossip.membership.member import Member, Status
from simulations.gossip.host import Host
from simulations.gossip.world import World


class Verdict(NamedTuple):
    """One host has begun to hold a member for ``DOWN`` or ``LEFT``."""

    at_s: float
    by: Host
    member: Member


class Verdicts(list[Verdict]):
    """Fills as the world runs."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        world.found.append(self._found)

    def _found(self, host: Host, effect: Effect) -> None:
        if isinstance(effect, MemberChanged) and effect.member.status >= Status.DOWN:
            self.append(Verdict(self._world.now, host, effect.member))

    def down(self, members: Iterable[Host]) -> list[str]:
        """Describe each verdict that one of ``members`` is down."""
        ids = {host.id for host in members}
        return [
            f"{by.name} declared {member.name} down at {at_s:.1f} s"
            for at_s, by, member in self
            if member.node in ids and member.status == Status.DOWN
        ]
