"""The counters of the gossip core (``CoreContext.counters``), each with its help for ``/metrics``.

A counter that is incremented anywhere in ``beiran.gossip`` is defined here; a test compares.
"""

from collections.abc import Mapping
from typing import Final

COUNTERS: Final[Mapping[str, str]] = {
    "bad_packets": "Gossip packets that this node could not read.",
    "beacons_received": "Beacons received from other agents of this cluster.",
    "beacons_sent": "Beacons sent.",
    "datagram_bytes_sent": "Bytes of gossip datagrams sent, without headers.",
    "datagrams_received": "Gossip datagrams received.",
    "datagrams_sent": "Gossip datagrams sent.",
    "deaf_spells": "Times that this node heard no other node, and blamed its own network for it.",
    "identity_conflicts": "Signs of another agent that uses this node's UUID.",
    "incredible_claims": "Claims about this node with impossible numbers, ignored.",
    "other_cluster_packets": "Packets of other clusters, ignored.",
    "pauses": "Times that this process did not run.",
    "probes_failed": "Probes without an answer.",
    "refusals": "Connections to members that the member's host refused.",
    "refutations": "Suspicions of this node that it refuted.",
    "requests_failed": "Gossip requests over TCP without an answer.",
    "requests_sent": "Gossip requests sent over TCP.",
    "suspicions": "Suspicions begun.",
    "syncs_begun": "Push-pulls begun.",
    "verdicts": "Members that this node declared down.",
}
