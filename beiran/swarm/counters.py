"""The counters of the swarm core (``SwarmContext.counters``), each with its help for ``/metrics``.

A counter that is incremented anywhere in ``beiran.swarm`` is defined here; a test compares. In
``/metrics`` the names begin with ``beiran_swarm_``.
"""

from collections.abc import Mapping
from typing import Final

COUNTERS: Final[Mapping[str, str]] = {
    "asked_twice": "Pieces requested from a second peer near the end of a blob.",
    "audits": "Pieces fetched from a registry to find out whether a peer sends wrong bytes.",
    "bad_packets": "Swarm packets that this node could not read.",
    "blobs_damaged": "Blobs whose digest was wrong as a whole, and that were fetched again.",
    "datagram_bytes_sent": "Bytes of swarm datagrams sent, without headers.",
    "datagrams_received": "Swarm datagrams received.",
    "datagrams_sent": "Swarm datagrams sent.",
    "fetches_failed_broken": "Fetches that ended early.",
    "fetches_failed_busy": "Fetches that a peer had no upload slot for.",
    "fetches_failed_missing": "Fetches of pieces that the peer did not have.",
    "fetches_failed_origin_refused": "Fetches that a registry refused.",
    "fetches_failed_origin_unavailable": "Fetches that a registry did not answer.",
    "fetches_failed_unreachable": "Fetches from peers that did not answer.",
    "fetches_slow": "Fetches from peers ended because other peers were much faster.",
    "fetches_stalled": "Fetches from peers ended because no bytes came.",
    "leases_given_on": "Leases taken from a node whose fetch made no progress.",
    "leases_granted": "Leases of fetches from a registry granted to nodes.",
    "leases_lost": "Leases of this node that were given to another node.",
    "other_cluster_packets": "Swarm packets of other clusters, ignored.",
    "peers_distrusted": "Peers banned for bytes that differ from the hashes they announced.",
    "peers_forgiven": "Peers whose ban has ended.",
    "pieces_doubted": "Pieces discarded and fetched again because their hashes were not proven.",
    "pieces_refused": "Pieces received that differ from their announced hashes.",
    "rendezvous_passed_over": "Rendezvous nodes that did not answer.",
    "runs_without_lease": "Runs of pieces fetched from a registry without a lease.",
    "strangers": "Swarm packets from hosts that are not members of the cluster.",
}
