"""Wellness: how long hosts have been well, and the network whole.

A host is *well* while it runs, is on, is neither stopped, blocked nor slow, and shares its UUID
with no other host. The network is *whole* while it is neither split nor cut. A disturbance starts
the time anew.
"""

from simulations.gossip.host import Host
from simulations.gossip.world import World


class Wellness:
    """Since when each host is well, and the network whole."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._well_since: dict[int, float] = {}
        self._lives: dict[int, int] = {}
        self._whole_since: float | None = world.now

    def look(self) -> None:
        """Note the present state; called around every operation and every second."""
        world = self._world
        doubled = {host.id for host in world.hosts if host.clone and host.online}
        for host in world.hosts:
            well = host.online and not host.hampered and host.id not in doubled
            if not well or self._lives.get(host.number) != host.life:
                self._lives[host.number] = host.life
                self._well_since.pop(host.number, None)
            if well:
                self._well_since.setdefault(host.number, world.now)
        if not world.network.intact:
            self._whole_since = None
        elif self._whole_since is None:
            self._whole_since = world.now

    def disturb(self, host: Host) -> None:
        """A host was disturbed by an operation whose effect is over."""
        self._well_since.pop(host.number, None)

    def disturb_network(self) -> None:
        """The network was disturbed by an operation whose effect is over."""
        self._whole_since = None

    def well_for_s(self, *hosts: Host) -> float:
        """Return how long all of these hosts have been well in a whole network, in seconds."""
        now = self._world.now
        if self._whole_since is None:
            return 0.0
        since = self._whole_since
        for host in hosts:
            if not host.online or host.hampered or self._lives.get(host.number) != host.life:
                return 0.0
            since = max(since, self._well_since.get(host.number, now))
        return now - since
