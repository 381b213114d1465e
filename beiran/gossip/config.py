"""The protocol's parameters, with where each default comes from."""

import math
from typing import Final

from msgspec import Struct

DATAGRAM_BYTES_MAX: Final = 1400  # memberlist UDPBufferSize: below any Ethernet MTU, tunnels too
STREAM_BYTES_MAX: Final = 32 * 1024 * 1024  # 10,000 nodes pack into 2 MB; the rest is headroom
COUNT_CREDIBLE_MAX: Final = 2**47
"""Of ourselves nobody can know a larger generation, incarnation or version: half of what the wire
has room for, so that our own next one always fits."""
SYNC_WHOLE_MAX: Final = 150  # members up to which a version vector is cheaper than its buckets


class GossipConfig(Struct, frozen=True, kw_only=True):
    """How one node gossips. All members of a cluster should use the same.

    The Lifeguard parts can be switched off one by one, as the paper's experiments need.
    """

    probe_interval_s: float = 1.0  # memberlist DefaultLANConfig
    probe_timeout_s: float = 0.5  # memberlist DefaultLANConfig
    ping_retry_s: float = 0.2  # a lost ping is sent again before others are bothered; 0: never
    indirect_probes: int = 3  # K of SWIM §4.1; memberlist IndirectChecks
    stream_probe: bool = True  # memberlist's TCP fallback
    probe_successor: bool = True  # every other probe goes to who stands next on the ring
    all_nacks_conclude: bool = True  # all we asked heard nothing either: do not wait on

    suspicion_alpha: float = (
        1.5  # simulations "silence" and "lifeguard-*": docs/explanation/simulations.md
    )
    suspicion_beta: float = 6.0
    suspicion_confirmations: int = 3  # K of Lifeguard's LHA-Suspicion
    local_health_max: int = 8  # S of Lifeguard's LHA-Probe; memberlist AwarenessMaxMultiplier
    nacks: bool = True
    buddy: bool = True
    self_doubt: bool = True
    direct_evidence: bool = True  # whom we ourselves hear is not declared down by us
    last_call_s: float = 0.25  # the suspect is asked once more, this long before the verdict
    confirm_at_once: bool = True  # the suspect is told, and its neighbours probe it, at once
    confirmers: int = 4  # so many: one may be the accuser, and three more count (K)
    deaf_s: float = 2.0  # who hears nobody for this long is deaf (two packets a second are usual)
    deaf_verdict_s: float = 60.0  # … and believes its own verdicts again after this long
    pause_s: float = 0.1  # a timer this late means that we, not the others, were away

    fanout: int = 3  # ring neighbours both ways and one at random (RingCast, 2007)
    far_share: float = (
        0.5  # of what we are told, that goes to a random one; where packets get lost, 1
    )
    push_tick_s: float = 0.0  # 0: at once; memberlist's GossipInterval is 0.2, for comparisons
    push_again_s: float = 0.15  # second round, for news that may have been lost
    lossy_s: float = 15.0  # a ping that had to be repeated makes the network lossy for so long
    by_state_hash: bool = (
        True  # news rides only to those whose picture's hash says that they lack it
    )
    news_lasts_s: float = 5.0  # … for so long; a later difference is a push-pull's
    retransmit_mult: int = 4  # memberlist RetransmitMult: 4·⌈log10(n+1)⌉ copies at most
    enough_echoes: int = 3  # heard from this many others: everybody has it

    watchers: int = 3  # neighbours that keep an idle TCP connection to each agent
    refusals_needed: int = 2  # members whose connection was refused before one is declared down

    sync_patience_s: float = 0.25  # news is under way this long; a difference that lasts is real
    sync_gap_s: float = 0.2  # between two push-pulls that we start
    request_timeout_s: float = 5.0
    want_retry_s: float = 0.3

    beacon_burst_s: tuple[float, ...] = (0.0, 0.2, 0.6, 1.5)
    beacon_lan_interval_s: float = 2.0  # one beacon every two seconds on a LAN, however many agents
    lost_interval_s: float = 0.5  # one attempt to reach a lost member, over all who are online
    seed_interval_s: float = 5.0  # how often addresses that never answered are tried again
    seeds_at_once: int = 3
    eager_sync_max: int = 24  # news from one push-pull that is pushed on; more is a whole picture
    delta_datagrams_max: int = 4  # a larger change is announced and fetched over TCP
    forget_s: float = 24 * 3600.0  # serf's reconnect and tombstone timeout

    tombstones_max: int = 64  # kept per owner; who missed older ones is sent everything

    def suspicion_min_s(self, members: int) -> float:
        """The least time a suspect has to refute.

        Args:
          members: known to be online, ourselves included; at least 1.

        Returns: seconds.
        Raises: ValueError if ``members`` is below 1.
        Source: Lifeguard §IV-B; memberlist ``suspicionTimeout`` (util.go).
        """
        if members < 1:
            raise ValueError(f"a cluster has at least one member, not {members}")
        return self.suspicion_alpha * max(1.0, math.log10(members)) * self.probe_interval_s

    def copies_max(self, members: int) -> int:
        """How often one node sends one piece of news at most. memberlist ``retransmitLimit``."""
        return self.retransmit_mult * math.ceil(math.log10(members + 1))
