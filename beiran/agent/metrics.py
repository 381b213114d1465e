"""The metrics that ``/metrics`` shows: a gauge for each state, and all counters of the agent.

To add a gauge, add it to ``Metrics``. To add a counter, define it with its help in the package that
counts it (``agent/counters.py`` lists the forms). ``docs/reference/api.md`` describes them.
``agent/api/prometheus_text.py`` writes the text.
"""

from typing import Final

from beiran.agent.api.prometheus_text import Metric, Sample
from beiran.agent.status import AgentStatus
from beiran.cache.blob_cache import BlobCache
from beiran.gossip.membership.member import Status
from beiran.net.udp import UdpSocket


class Metrics:
    """The agent's metrics for Prometheus: gauges, and ``AgentStatus.counters``."""

    def __init__(self, status: AgentStatus, udp: UdpSocket, cache: BlobCache) -> None:
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
        states = dict.fromkeys(Status, 0)
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
