"""The protocols that are compared: SWIM, Lifeguard's parts, serf, and ours.

All are our own core with other parameters, so nothing differs but what is compared. ``SWIM`` is
what the Lifeguard paper calls SWIM: memberlist without Lifeguard. Its suspicion lasts α·log10(n)
probe intervals, and its updates go to three members every 200 ms.
"""

from typing import Final

from msgspec.structs import replace

from beiran.gossip.config import GossipConfig

OURS: Final = GossipConfig()
MEMBERLIST: Final = replace(
    OURS,
    suspicion_alpha=5.0,  # memberlist SuspicionMult when the paper was written; 4 since
    suspicion_beta=6.0,  # SuspicionMaxTimeoutMult
    by_state_hash=False,
    push_tick_s=0.2,  # GossipInterval, to GossipNodes = 3
    ping_retry_s=0.0,
    self_doubt=False,
    direct_evidence=False,
    confirm_at_once=False,
    last_call_s=0.0,
    pause_s=1e9,
    confirmers=0,
    probe_successor=False,
    all_nacks_conclude=False,
    watchers=0,
    probe_interval_s=1.0,
    probe_timeout_s=0.5,
)
"""Lifeguard in the words of the paper, with its α 5 and β 6."""


def lifeguard(
    *,
    probe: bool = True,
    suspicion: bool = True,
    buddy: bool = True,
    alpha: float = 5.0,
    beta: float = 6.0,
) -> GossipConfig:
    """Return Lifeguard with some of its parts: LHA-Probe, LHA-Suspicion, the buddy system."""
    return replace(
        MEMBERLIST,
        suspicion_alpha=alpha,
        suspicion_beta=beta if suspicion else 1.0,
        local_health_max=MEMBERLIST.local_health_max if probe else 0,
        nacks=probe,
        buddy=buddy,
    )


SWIM: Final = lifeguard(probe=False, suspicion=False, buddy=False)
SERF: Final = lifeguard(alpha=4.0)
"""serf today: memberlist's LAN defaults."""
