"""The protocol's parameters, with where each default comes from."""

import math
from typing import Final

from msgspec import Struct

DATAGRAM_BYTES_MAX: Final = 1400  # memberlist UDPBufferSize: below any Ethernet MTU, tunnels too
STREAM_BYTES_MAX: Final = 32 * 1024 * 1024  # 10,000 nodes pack into 2 MB; the rest is headroom
COUNT_CREDIBLE_MAX: Final = 2**47
"""A larger generation, incarnation or version of this node is no true claim of any peer: half of
what the wire has room for, so that this node's next one always fits."""
SYNC_WHOLE_MAX: Final = 150
"""Up to this many members a whole version vector (5 kB) is cheaper than one round trip more for
finding out which of its buckets differ."""


class GossipConfig(Struct, frozen=True, kw_only=True):
    """How one node gossips. All members of a cluster should use the same.

    The parts of Lifeguard, and ours, can be switched off one by one: the papers' experiments need
    that (docs/explanation/simulations.md names each experiment below).
    """

    # Probing
    probe_interval_s: float = 1.0  # memberlist DefaultLANConfig
    probe_timeout_s: float = 0.5  # memberlist DefaultLANConfig
    ping_retry_s: float = 0.2
    """A lost ping is repeated after this, before other members are asked; 0: never. Well above a
    LAN's round trip, and early enough for an ack within the timeout. Chosen, not measured."""
    indirect_probes: int = 3  # K of SWIM §4.1; memberlist IndirectChecks
    stream_probe: bool = True  # memberlist's TCP fallback
    probe_successor: bool = True
    """Every other probe goes to the ring's successor: the mean first detection falls from 2.0 to
    1.6 s at the same number of packets (experiment "swim")."""
    all_nacks_conclude: bool = True  # nacks of all that were asked end a probe

    # Suspicion
    suspicion_alpha: float = 1.5
    """Lifeguard's paper has 5, and tries 4 and 2. With last call and first-hand evidence 1.5
    brings no false positive where SWIM has 3,586 (experiments "silence", "lifeguard-interval")."""
    suspicion_beta: float = 6.0  # Lifeguard's β; memberlist SuspicionMaxTimeoutMult
    suspicion_confirmations: int = 3  # K of Lifeguard's LHA-Suspicion
    local_health_max: int = 8  # S of Lifeguard's LHA-Probe; memberlist AwarenessMaxMultiplier
    nacks: bool = True  # Lifeguard §IV-A
    buddy: bool = True  # Lifeguard §IV-C
    self_doubt: bool = True  # time in which this node was deaf or away counts against no suspect
    direct_evidence: bool = True  # a member that this node itself hears is not declared down
    last_call_s: float = 0.25
    """The suspect is pinged once more, this long before the end of its timeout: as long as a lost
    ping is repeated after. Chosen, not measured."""
    confirm_at_once: bool = True
    """The suspect is informed, and its ring neighbours probe it, at once."""
    confirmers: int = 4
    """Ring neighbours that probe a suspect. One may be the accuser, three more (K) bring the
    timeout to its minimum. With three in all, the suspicion of a watcher never got there."""
    deaf_s: float = 2.0  # without any packet; two a second are usual, so four are missing
    deaf_verdict_s: float = 60.0
    """A node that is deaf for longer declares others down all the same: the network of others may
    be what failed. Trades false positives of a cut-off node against a listing that stays wrong."""
    pause_s: float = 0.1
    """A timer this late means that this process did not run. Shorter would excuse a loaded host too
    often, longer would count its pauses against others. Chosen, not measured."""

    # Dissemination
    fanout: int = 3  # both ring neighbours and one member at random (RingCast, 2007)
    far_share: float = 0.5
    """The share of others' news that goes to a random member too; while packets get lost it is 1.
    All of 1,000 know within 0.021 s (experiment "dissemination"), in 1.7 copies a node."""
    push_tick_s: float = 0.0  # 0: at once; memberlist's GossipInterval is 0.2, for comparisons
    push_again_s: float = 0.15
    """The second push. News is everywhere after 0.03 s where nothing is lost, so that this one is
    sent only where something was (experiment "dissemination")."""
    lossy_s: float = 15.0
    """A ping that had to be repeated makes the network lossy for this long: with a loss of 1 % a
    node repeats one of its pings about every 50 s, with 5 % every 10 s. Chosen, not measured."""
    by_state_hash: bool = True  # news rides only to members whose state hash differs
    news_lasts_s: float = 5.0  # … for this long; a later difference is a push-pull's. Chosen
    retransmit_mult: int = 4  # memberlist RetransmitMult: 4·⌈log10(n+1)⌉ copies at most
    enough_echoes: int = 3  # the same news from this many others: every member has it

    # Evidence of TCP connections
    watchers: int = 3  # ring neighbours that keep an idle connection to each agent
    refusals_needed: int = 2  # one alone may be that watcher's own fault, or a firewall's

    # Anti-entropy
    sync_patience_s: float = 0.25  # longer than the second push takes; what differs then is no news
    sync_gap_s: float = 0.2  # between two push-pulls that this node begins
    request_timeout_s: float = 5.0  # 2 MB, all that 10,000 nodes know, at 3.2 Mbit/s
    want_retry_s: float = 0.3  # a description may wait for its sender's own; see PATIENCE_DOUBLINGS
    eager_sync_max: int = 24  # facts of one push-pull that are pushed on; more is a whole state
    delta_datagrams_max: int = 4  # a larger change is announced and fetched over TCP

    # Discovery
    beacon_burst_s: tuple[float, ...] = (
        0.0,
        0.2,
        0.6,
        1.5,
    )  # waits before each; of four one gets through
    beacon_lan_interval_s: float = 2.0  # one beacon in this time on a LAN, however many agents
    lost_interval_s: float = 0.5
    """One attempt to reach a member that is down, over all that are online: two halves of 100 are
    one again 3.5 s after a split of 10 minutes (experiment "healing")."""
    seed_interval_s: float = 5.0  # an address that never answered costs one connection in this time
    seeds_at_once: int = 3  # of many addresses, and of many remembered members at the start
    forget_s: float = 24 * 3600.0  # serf's reconnect and tombstone timeout

    # Possession
    tombstones_max: int = 64
    """Kept per owner: 2 kB. A copy that missed more releases is sent all that the owner holds."""

    def suspicion_min_s(self, members: int) -> float:
        """The minimum of the time in which a suspect may refute.

        Args:
          members: known to be online, this node included; at least 1.

        Returns: seconds.
        Raises: ValueError if ``members`` is below 1.
        Source: Lifeguard §IV-B; memberlist ``suspicionTimeout`` (util.go).
        """
        if members < 1:
            raise ValueError(f"a cluster has at least one member, not {members}")
        return self.suspicion_alpha * max(1.0, math.log10(members)) * self.probe_interval_s

    def copies_max(self, members: int) -> int:
        """How often one node sends one update at most. memberlist ``retransmitLimit``."""
        return self.retransmit_mult * math.ceil(math.log10(members + 1))
