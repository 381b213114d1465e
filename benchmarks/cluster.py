"""A cluster of one gossip program, started and settled, for an experiment to act on."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from benchmarks import beiran_peer, kinship_peer, serf
from benchmarks.chronicle import Chronicle, Sighting, What
from benchmarks.gossiper import Gossiper
from benchmarks.report import MISSED
from tests.lab.network import Host, Lan

NAMESPACE_PREFIX: Final = "brnbench"
TOGETHER_TIMEOUT_S: Final = 150.0
SETTLE_S: Final = 5.0


class Kind(NamedTuple):
    """A gossip program that can be measured."""

    name: str
    make: Callable[[Lan, Chronicle], Gossiper]
    missing: Callable[[], str | None]


KINDS: Final = (
    Kind("beiran", beiran_peer.Beiran, beiran_peer.missing),
    Kind("serf", serf.Serf, serf.missing),
    Kind("kinship", kinship_peer.Kinship, kinship_peer.missing),
)


class Cluster(NamedTuple):
    """Hosts of a LAN of their own, one program on each."""

    gossiper: Gossiper
    lan: Lan
    chronicle: Chronicle

    @property
    def hosts(self) -> tuple[Host, ...]:
        return self.lan.hosts

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.hosts]

    def await_together(self) -> float:
        """Wait until all see all online. Returns when it was so. Raises: TimeoutError."""
        at = self.chronicle.all_see(self.names, self.names, since=0, timeout_s=TOGETHER_TIMEOUT_S)
        if at is None:
            raise TimeoutError(f"{self.gossiper.name}: not all of {len(self.hosts)} see all")
        return at

    def seconds_to_all(
        self, what: What, subject: Host, *, since: int, asked: float, timeout_s: float
    ) -> float:
        """From ``asked`` until all others saw ``subject`` be ``what``; or ``MISSED``."""
        others = [host.name for host in self.hosts if host != subject]
        seen = self.chronicle.first(what, subject.name, others, since=since, timeout_s=timeout_s)
        return last(seen, len(others)) - asked

    def false_offline(self, since: int) -> list[Sighting]:
        """Every time after ``since`` at which a host showed another one offline."""
        return [seen for seen in self.chronicle.since(since) if seen.what == "offline"]


def last(times: Mapping[str, float], expected: int) -> float:
    """The last of the times, ``MISSED`` where fewer than ``expected`` are there."""
    return max(times.values()) if len(times) >= expected else MISSED


@contextmanager
def open_cluster(kind: Kind, hosts: int, *, settle_s: float = SETTLE_S) -> Iterator[Cluster]:
    """Start ``kind`` on this many hosts, wait until all see all, and let it settle."""
    with (
        Lan(NAMESPACE_PREFIX, hosts) as lan,
        Chronicle() as chronicle,
        kind.make(lan, chronicle) as gossiper,
    ):
        cluster = Cluster(gossiper, lan, chronicle)
        gossiper.start(lan.hosts)
        cluster.await_together()
        time.sleep(settle_s)
        yield cluster
