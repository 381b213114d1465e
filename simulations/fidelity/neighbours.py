"""ARP: requests of kernels, which interface counters count and agents never see.

Theory (Linux, net/core/neighbour.c; the constants are the defaults of /proc/sys/net/ipv4/neigh):
an entry that was not confirmed for the reachable time (30 s, drawn anew for each host between half
and one and a half of it) turns stale. A packet sent by a stale entry starts a delay of 5 s. If
nothing confirms the entry until the delay's timer fires, a little later than 5 s, the kernel sends
one unicast request, and the neighbour answers with another frame. A datagram sent with
``MSG_CONFIRM`` confirms its entry; one that is received does not.
"""

from typing import Final

from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.chance import stream
from simulations.kernel.traffic import ARP

ARP_BYTES: Final = 42  # the frame, as sent to a veth link: nothing pads it
REACHABLE_S: Final = (15.0, 45.0)  # base_reachable_time, times 0.5 to 1.5
DRAWN_AGAIN_S: Final = 300.0
DELAY_S: Final = 5.0  # delay_first_probe_time
TIMER_LATE_S: Final = 0.3  # the timer wheel's coarseness at 5 s, about


class _Entry:
    """One host's entry for another."""

    __slots__ = ("confirmed_at", "delayed")

    def __init__(self, now: float) -> None:
        self.confirmed_at = now
        self.delayed = False


class Neighbours:
    """The neighbour tables of all hosts of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._reachable_s: dict[tuple[int, int], float] = {}

    def sent(self, source: Host, target: Host, *, confirmed: bool) -> None:
        """A datagram is sent from one host to another."""
        now = self._world.now
        entry = self._entries.get((source.number, target.number))
        if entry is None:
            self._entries[source.number, target.number] = _Entry(now)
            self._exchange(source, target)
            return
        stale = self._stale(source, entry, now)
        if confirmed:
            entry.confirmed_at = now
        if stale and not entry.delayed:
            self._delay(source, target, entry, now)

    def _stale(self, source: Host, entry: _Entry, now: float) -> bool:
        """Whether an entry was not confirmed in time."""
        period = int(now / DRAWN_AGAIN_S)
        reachable_s = self._reachable_s.get((source.number, period))
        if reachable_s is None:
            random = stream(self._world.seed, "arp", source.number, period)
            reachable_s = random.uniform(*REACHABLE_S)
            self._reachable_s[source.number, period] = reachable_s
        return now > entry.confirmed_at + reachable_s

    def _delay(self, source: Host, target: Host, entry: _Entry, now: float) -> None:
        entry.delayed = True
        at = now + DELAY_S + TIMER_LATE_S
        self._world.schedule(at, self._delay_over, source, target, entry)

    def _delay_over(self, source: Host, target: Host, entry: _Entry) -> None:
        now = self._world.now
        entry.delayed = False
        if now > entry.confirmed_at + DELAY_S and source.up:
            entry.confirmed_at = now
            self._exchange(source, target)

    def _exchange(self, source: Host, target: Host) -> None:
        """Count a request and its answer."""
        for host in (source, target):
            host.traffic.count(ARP, 1, ARP_BYTES)
