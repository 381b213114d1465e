"""Self-awareness: whether this node can judge others, and which of them it has heard itself.

Lifeguard's observation is that most false suspicions come from the side that suspects: a node that
is slow, or cut off, takes its own trouble for that of others. Three answers:

- *Local health* (Lifeguard §IV-A): probes that fail without a reason that points at the target,
  nacks that do not come, and suspicions of this node itself raise a multiplier, by which it
  stretches its probe interval and timeout; successful probes lower it.
- *Deafness*: while no packet at all has come for ``deaf_s``, the network of this node is the
  likelier fault. That time does not count against any suspect.
- *First-hand evidence*: a member whose packets this node itself receives is not down, whatever
  another member says; and a refused TCP connection is evidence only where an earlier one was
  accepted, for otherwise a firewall may be what refuses.
"""

from beiran.gossip.context import Context
from beiran.ids import NodeId


class Awareness:
    """What this node has perceived itself.

    Attributes:
      local_health: Lifeguard's multiplier; 0 is well, larger is worse.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last_heard = context.now
        self._heard_at: dict[NodeId, float] = {}
        self._answered_by_tcp: set[NodeId] = set()
        self.local_health = 0

    # --- local health -----------------------------------------------------------------------

    @property
    def health_factor(self) -> int:
        """The factor on probe interval and timeout: 1 while all is well."""
        return self.local_health + 1

    def worsen(self, by: int = 1) -> None:
        """Raise the multiplier, or lower it if ``by`` is negative."""
        worst = self._context.config.local_health_max
        self.local_health = min(worst, max(0, self.local_health + by))

    # --- deafness ---------------------------------------------------------------------------

    @property
    def silence_s(self) -> float:
        """Seconds since the last packet of any other member."""
        return self._context.now - self._last_heard

    @property
    def deaf(self) -> bool:
        """Whether others are online as far as is known, and none was heard for ``deaf_s``."""
        return (
            self._context.members.online_count > 1 and self.silence_s > self._context.config.deaf_s
        )

    @property
    def doubts_itself(self) -> bool:
        """Whether silence would be this node's fault: with one other member it may be either's."""
        return self._context.config.self_doubt and self._context.members.online_count > 2

    def was_away(self, seconds: float) -> None:
        """Do not count time in which this process did not run as silence of the others."""
        self._last_heard += seconds

    # --- first-hand evidence ----------------------------------------------------------------

    def hear(self, node: NodeId) -> float:
        """Note that a packet has come from another node itself.

        Returns: for how many seconds this node was deaf until now; 0 if it was not.
        """
        silence_s = self.silence_s
        deaf = silence_s > self._context.config.deaf_s and self.doubts_itself
        self._last_heard = self._context.now
        if node in self._context.members:
            self._heard_at[node] = self._context.now
        return silence_s if deaf else 0.0

    def heard_at(self, node: NodeId) -> float | None:
        """When the last packet came from a member itself, or None if none has."""
        return self._heard_at.get(node)

    def last_heard(self) -> dict[NodeId, float]:
        """When the last packet came from each member, of those that sent one."""
        return dict(self._heard_at)

    @property
    def heard_count(self) -> int:
        """The number of members for which the time of their last packet is kept."""
        return len(self._heard_at)

    def note_tcp_answer(self, node: NodeId) -> None:
        """Note that a member has answered over TCP: a refusal then means that its agent is gone."""
        if node in self._context.members:
            self._answered_by_tcp.add(node)

    def answered_by_tcp(self, node: NodeId) -> bool:
        """Whether a member has ever answered over TCP."""
        return node in self._answered_by_tcp

    def forget(self, node: NodeId) -> None:
        """Keep no evidence of a member that is offline."""
        self._heard_at.pop(node, None)
        self._answered_by_tcp.discard(node)
