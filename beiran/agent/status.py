"""How the agent is doing: the answers of ``/info``, ``/healthz`` and ``/metrics``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from beiran import __version__
from beiran.agent.api.metrics import Metric, Sample
from beiran.agent.counters import Counters
from beiran.agent.dns_join import DnsJoin
from beiran.agent.engine_watcher import EngineWatcher
from beiran.agent.gossip_driver import GossipDriver
from beiran.agent.store_writer import StoreWriter
from beiran.api.models import Info
from beiran.cache.blob_cache import BlobCache
from beiran.clock import now_text
from beiran.gossip.membership.member import Status as MemberStatus
from beiran.ids import node_id_text
from beiran.net.udp import UdpSocket
from beiran.store.async_reads import Reads


@dataclass(frozen=True, kw_only=True)
class Status:
    """This node, its problems and its counters."""

    cluster: str
    reads: Reads
    driver: GossipDriver
    engine_watcher: EngineWatcher
    store_writer: StoreWriter
    dns_join: DnsJoin
    counters: Counters
    started_at: str = field(default_factory=now_text)

    async def info(self) -> Info:
        """This node now."""
        counts = await self.reads(lambda queries: queries.counts())
        own = self.driver.node.own
        return Info(
            uuid=node_id_text(own.node),
            name=own.name,
            cluster=self.cluster,
            address=own.address.host,
            port=own.address.port,
            state=own.status.state,
            generation=own.generation,
            incarnation=own.incarnation,
            version=__version__,
            engine=self.engine_watcher.engine.info,
            started_at=self.started_at,
            nodes_online=counts.nodes_online,
            nodes_known=counts.nodes_known,
            images=counts.images,
            layers=counts.layers,
            problems=tuple(self.problems()),
            counters=self.counters.values(),
        )

    def problems(self) -> Sequence[str]:
        """What keeps the agent from its work, one line each; empty when all is well."""
        problems = []
        if self.store_writer.problem is not None:
            problems.append(self.store_writer.problem)
        if self.engine_watcher.down_reason is not None:
            problems.append(f"the engine does not answer: {self.engine_watcher.down_reason}")
        if self.driver.node.deaf:
            problems.append("this node has not heard any other node for a while; check its network")
        if self.driver.identity_conflict is not None:
            problems.append(self.driver.identity_conflict)
        problems.extend(self.dns_join.problems)
        return problems


class Metrics:
    """The agent's metrics for Prometheus: gauges, and a counter for each of ``Status.counters``."""

    def __init__(self, status: Status, udp: UdpSocket, cache: BlobCache) -> None:
        self._status: Final = status
        self._udp: Final = udp
        self._cache: Final = cache

    def read(self) -> list[Metric]:
        """All metrics now."""
        counters = self._status.counters
        return [
            *self._gauges(),
            *(
                Metric(f"beiran_{name}_total", "counter", counters.help[name], (Sample(value),))
                for name, value in counters.values().items()
            ),
        ]

    def _gauges(self) -> list[Metric]:
        node = self._status.driver.node
        states = dict.fromkeys(MemberStatus, 0)
        for member in node.members.all():
            states[member.status] += 1
        return [
            Metric(
                "beiran_nodes",
                "gauge",
                "Known nodes by state, this one included.",
                tuple(Sample(count, {"state": status.state}) for status, count in states.items()),
            ),
            _gauge("beiran_cache_bytes", "Bytes of blobs in the cache.", self._cache.used_bytes),
            _gauge(
                "beiran_images",
                "Images that this node holds.",
                len(node.possession.holdings(node.own.node)),
            ),
            _gauge(
                "beiran_engine_up",
                "1 while the engine answers, else 0.",
                int(self._status.engine_watcher.engine.info.up),
            ),
            _gauge(
                "beiran_problems",
                "Problems that /healthz lists now.",
                len(self._status.problems()),
            ),
            _gauge(
                "beiran_local_health",
                "Lifeguard's local health multiplier: 0 when this node keeps up.",
                node.local_health,
            ),
            _gauge(
                "beiran_udp_kernel_drops",
                "Datagrams that the kernel dropped because the agent did not read them in time.",
                self._udp.kernel_drops(),
            ),
        ]


def _gauge(name: str, text: str, value: float) -> Metric:
    return Metric(name, "gauge", text, (Sample(value),))
