"""The state of this node, its problems and its counters: the answers of ``/info`` and ``/healthz``.

``agent/api/routes.py`` serves them. ``/metrics`` is in ``agent/metrics.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from beiran import __version__
from beiran.agent.counters import Counters
from beiran.agent.dns_join import DnsJoin
from beiran.agent.engine_watcher import EngineWatcher
from beiran.agent.gossip_driver import GossipDriver
from beiran.agent.store_writer import StoreWriter
from beiran.api.models import Info
from beiran.clock import now_text
from beiran.ids import node_id_text
from beiran.store.async_reads import Reads


@dataclass(frozen=True, kw_only=True)
class AgentStatus:
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
            problems.append("this node receives no packets of other nodes; check its network")
        if self.driver.identity_conflict is not None:
            problems.append(self.driver.identity_conflict)
        problems.extend(self.dns_join.problems)
        return problems
