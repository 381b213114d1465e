"""Everything that can become due in a gossip core, one class each.

``GossipNode.advance`` hands each timer to the part that set it. The classes carry what that part
needs to know: a probe's number, or the node that the timer is about.
"""

from msgspec import Struct

from beiran.ids import NodeId


class ProbeDue(Struct, frozen=True):
    """Probe the next member."""


class PingRetryDue(Struct, frozen=True):
    """No ack has come to the first ping of this probe: send a second."""

    probe: int


class IndirectProbeDue(Struct, frozen=True):
    """No ack has come within the probe timeout: ask other members to ping the target."""

    probe: int


class ExtraProbeEnds(Struct, frozen=True):
    """The interval of a probe out of turn is over."""

    probe: int


class NackDue(Struct, frozen=True):
    """The target of a probe made for another member has not answered: send that member a nack."""

    probe: int


class SuspicionDue(Struct, frozen=True):
    """The time in which this suspect may refute is perhaps over."""

    node: NodeId


class ReapDue(Struct, frozen=True):
    """This member has been offline for ``forget_s``: keep nothing of it."""

    node: NodeId


class RememberedReapDue(Struct, frozen=True):
    """Members of an earlier life that have not shown themselves for ``forget_s`` are forgotten."""


class RewatchDue(Struct, frozen=True):
    """Members came, went or moved a moment ago: watch the neighbours that the ring has now."""


class SecondPushDue(Struct, frozen=True):
    """Push once more the news that came back from too few members."""


class GossipTickDue(Struct, frozen=True):
    """Gossip at a fixed interval, as memberlist does; for comparisons only."""


class PushPullDue(Struct, frozen=True):
    """Begin the push-pull that was scheduled."""


class WantDue(Struct, frozen=True):
    """Ask again for image descriptions that have not come."""


class BeaconDue(Struct, frozen=True):
    """Broadcast a beacon."""


class ReconnectDue(Struct, frozen=True):
    """Ping one of the members that are down."""


class SeedsDue(Struct, frozen=True):
    """Try addresses at which no known member is online."""


class LeaveRepeatDue(Struct, frozen=True):
    """Repeat the leave broadcast to those that have not acknowledged it."""


Timer = (
    ProbeDue
    | PingRetryDue
    | IndirectProbeDue
    | ExtraProbeEnds
    | NackDue
    | SuspicionDue
    | ReapDue
    | RememberedReapDue
    | RewatchDue
    | SecondPushDue
    | GossipTickDue
    | PushPullDue
    | WantDue
    | BeaconDue
    | ReconnectDue
    | SeedsDue
    | LeaveRepeatDue
)
