"""How the agent is doing: what ``/info``, ``/healthz`` and ``/metrics`` say."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from beiran import __version__
from beiran.agent.api.metrics import Metric, Sample
from beiran.agent.engine_watcher import Holder
from beiran.agent.gossip_driver import GossipDriver
from beiran.agent.pull_stack import PullStack
from beiran.agent.store_writer import Recorder
from beiran.api.models import Info
from beiran.clock import now_text
from beiran.engine.interface import Engine, LayerReader
from beiran.gossip.membership.member import Status
from beiran.http.server import HttpCounters
from beiran.ids import Digest, node_id_text
from beiran.net.beacon import Beacon
from beiran.net.udp import UdpSocket
from beiran.settings.settings import Settings
from beiran.store.async_reads import Reads
from beiran.store.store import Store

COUNTER_HELP: Final = {
    "blob_bytes_from_cache": "Bytes of blobs opened in the cache.",
    "blob_bytes_from_origin": "Bytes of blobs received from registries.",
    "blob_bytes_from_peers": "Bytes of blobs received from other nodes.",
    "blob_bytes_served": "Bytes of blobs sent to other nodes.",
    "blob_bytes_wasted": "Bytes of blobs received and not used, or received twice.",
    "bad_packets": "Gossip packets that could not be read.",
    "beacons_received": "Beacons of other agents of this cluster.",
    "beacons_sent": "Beacons sent.",
    "datagram_bytes_sent": "Bytes of gossip datagrams sent, without headers.",
    "datagrams_received": "Gossip datagrams received.",
    "datagrams_sent": "Gossip datagrams sent.",
    "deaf_spells": "Times in which nobody was heard.",
    "identity_conflicts": "Signs of another agent with this node's UUID.",
    "incredible_claims": "Claims about this node with numbers that nobody can know, ignored.",
    "other_cluster_packets": "Packets of other clusters, ignored.",
    "pauses": "Times in which this process did not run.",
    "probes_failed": "Probes without an answer.",
    "refusals": "Connections to members that their host refused.",
    "refutations": "Suspicions of this node that it refuted.",
    "requests_failed": "Gossip requests over TCP without an answer.",
    "requests_sent": "Gossip requests sent over TCP.",
    "suspicions": "Suspicions begun.",
    "swarm_asked_twice": "Pieces asked of a second peer near the end of a blob.",
    "swarm_audits": "Pieces fetched from a registry to find out whether a peer lies.",
    "swarm_bad_packets": "Swarm packets that could not be read.",
    "swarm_blobs_damaged": "Blobs that were wrong as a whole and fetched again.",
    "swarm_datagram_bytes_sent": "Bytes of swarm datagrams sent, without headers.",
    "swarm_datagrams_received": "Swarm datagrams received.",
    "swarm_datagrams_sent": "Swarm datagrams sent.",
    "swarm_fetches_failed_broken": "Fetches that ended early.",
    "swarm_fetches_failed_busy": "Fetches that a peer had no room for.",
    "swarm_fetches_failed_missing": "Fetches of what a peer did not have.",
    "swarm_fetches_failed_origin_refused": "Fetches that a registry refused.",
    "swarm_fetches_failed_origin_unavailable": "Fetches that a registry did not answer.",
    "swarm_fetches_failed_unreachable": "Fetches from peers that did not answer.",
    "swarm_fetches_slow": "Fetches from peers given up because others were much faster.",
    "swarm_fetches_stalled": "Fetches from peers given up because nothing came.",
    "swarm_leases_given_on": "Leases taken from a node that got nowhere.",
    "swarm_leases_granted": "Leases of fetches from a registry given to nodes.",
    "swarm_leases_lost": "Leases of this node that were given to another.",
    "swarm_other_cluster_packets": "Swarm packets of other clusters, ignored.",
    "swarm_peers_distrusted": "Peers left alone for bytes that were not what they had announced.",
    "swarm_peers_forgiven": "Peers asked again after they had been left alone.",
    "swarm_pieces_doubted": "Pieces held and fetched again: what was known of them was no good.",
    "swarm_pieces_refused": "Pieces received that were not what was announced.",
    "swarm_rendezvous_passed_over": "Rendezvous nodes that did not answer.",
    "swarm_strangers": "Swarm packets from nobody in the cluster.",
    "syncs_begun": "Push-pulls begun.",
    "verdicts": "Members this node declared down.",
}


class Report:
    """What the agent says of itself.

    Attributes:
      dns_problems: names that could not be looked up, a line each.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        driver: GossipDriver,
        holder: Holder,
        engine: Engine,
        udp: UdpSocket,
        beacon: Beacon | None,
        http: HttpCounters,
        recorder: Recorder,
        pull_stack: PullStack,
    ) -> None:
        self._settings: Final = settings
        self._reads: Final = Reads(store)
        self._driver: Final = driver
        self._holder: Final = holder
        self._engine: Final = engine
        self._udp: Final = udp
        self._beacon: Final = beacon
        self._http: Final = http
        self._recorder: Final = recorder
        self._pull_stack: Final = pull_stack
        self._started_at: Final = now_text()
        self.dns_problems: tuple[str, ...] = ()

    async def info(self) -> Info:
        """This node now."""
        counts = await self._reads(lambda queries: queries.counts())
        own = self._driver.node.own
        return Info(
            uuid=node_id_text(own.node),
            name=own.name,
            cluster=self._settings.cluster,
            address=own.address.host,
            port=own.address.port,
            state=own.status.state,
            generation=own.generation,
            incarnation=own.incarnation,
            version=__version__,
            engine=self._engine.info,
            started_at=self._started_at,
            nodes_online=counts.nodes_online,
            nodes_known=counts.nodes_known,
            images=counts.images,
            layers=counts.layers,
            problems=tuple(self.problems()),
            counters=self._counters(),
        )

    def problems(self) -> Sequence[str]:
        """What is wrong now, a line each; empty when all is well."""
        problems = []
        if self._recorder.problem is not None:
            problems.append(self._recorder.problem)
        if self._holder.down_reason is not None:
            problems.append(f"the engine does not answer: {self._holder.down_reason}")
        if self._driver.node.hears_nobody:
            problems.append("no other node has been heard for a while: is the network down?")
        if self._driver.identity_conflict is not None:
            problems.append(self._driver.identity_conflict)
        problems.extend(self.dns_problems)
        return problems

    def metrics(self) -> list[Metric]:
        """Numbers for Prometheus."""
        node = self._driver.node
        states = dict.fromkeys(Status, 0)
        for member in node.members.all():
            states[member.status] += 1
        own = node.own.node
        metrics = [
            Metric(
                "beiran_nodes",
                "gauge",
                "Known nodes by state, this one included.",
                tuple(Sample(count, {"state": status.state}) for status, count in states.items()),
            ),
            _gauge(
                "beiran_cache_bytes",
                "Bytes of blobs in the cache.",
                self._pull_stack.transfer.cache.used_bytes,
            ),
            _gauge("beiran_images", "Images this node holds.", len(node.possession.holdings(own))),
            _gauge("beiran_engine_up", "1 while the engine answers.", int(self._engine.info.up)),
            _gauge("beiran_problems", "What is wrong now; see /healthz.", len(self.problems())),
            _gauge(
                "beiran_local_health",
                "Lifeguard's local health multiplier: 0 is well.",
                node.local_health,
            ),
            _gauge(
                "beiran_udp_kernel_drops",
                "Datagrams dropped by the kernel because they were not read in time.",
                self._udp.kernel_drops(),
            ),
        ]
        counted = self._counters()
        return metrics + [
            Metric(
                f"beiran_{name}_total",
                "counter",
                COUNTER_HELP.get(name, f"{name.replace('_', ' ')}.".capitalize()),
                (Sample(value),),
            )
            for name, value in counted.items()
        ]

    def open_layer(self, digest: Digest) -> AbstractAsyncContextManager[LayerReader]:
        """Open a layer that this node's engine holds; as ``Engine.open_layer``."""
        return self._engine.open_layer(digest)

    def _counters(self) -> dict[str, int]:
        """Everything counted since the start, by name; 0 for what has not happened yet."""
        node = self._driver.node
        counters = dict.fromkeys(COUNTER_HELP, 0) | dict(node.counters)
        counters |= _prefixed("udp", msgspec.to_builtins(self._udp.counters))
        if self._beacon is not None:
            counters |= _prefixed("beacon_socket", msgspec.to_builtins(self._beacon.counters))
        counters |= msgspec.to_builtins(self._http)
        counters |= self._pull_stack.transfers.counters()
        counters |= _prefixed("swarm", self._pull_stack.transfer.driver.node.counters)
        return dict(sorted(counters.items()))


def _prefixed(prefix: str, counters: Mapping[str, int]) -> dict[str, int]:
    return {f"{prefix}_{name}": value for name, value in counters.items()}


def _gauge(name: str, text: str, value: float) -> Metric:
    return Metric(name, "gauge", text, (Sample(value),))
