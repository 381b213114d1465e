"""What a swarm core counts, each with the help text that ``/metrics`` shows beside it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from beiran.swarm.effects import FetchFailure


class Count(StrEnum):
    """A counter of ``SwarmNode.counters``. ``/metrics`` has it as ``beiran_swarm_NAME_total``."""

    help: str

    def __new__(cls, name: str, help: str) -> "Count":
        """A member by name and help text."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.help = help
        return member

    ASKED_TWICE = "asked_twice", "Pieces requested from a second peer near the end of a blob."
    AUDITS = "audits", "Pieces fetched from a registry to find out whether a peer misbehaves."
    BAD_PACKETS = "bad_packets", "Swarm packets that could not be read."
    BLOBS_DAMAGED = "blobs_damaged", "Blobs with a wrong SHA-256, of which pieces are refetched."
    DATAGRAM_BYTES_SENT = "datagram_bytes_sent", "Bytes of swarm datagrams sent, without headers."
    DATAGRAMS_RECEIVED = "datagrams_received", "Swarm datagrams received."
    DATAGRAMS_SENT = "datagrams_sent", "Swarm datagrams sent."
    FETCHES_FAILED_BROKEN = "fetches_failed_broken", "Fetches that ended early."
    FETCHES_FAILED_BUSY = "fetches_failed_busy", "Fetches that a peer had no upload slot for."
    FETCHES_FAILED_MISSING = "fetches_failed_missing", "Fetches of bytes that a peer did not have."
    FETCHES_FAILED_ORIGIN_REFUSED = (
        "fetches_failed_origin_refused",
        "Fetches that a registry refused.",
    )
    FETCHES_FAILED_ORIGIN_UNAVAILABLE = (
        "fetches_failed_origin_unavailable",
        "Fetches that a registry did not answer.",
    )
    FETCHES_FAILED_UNREACHABLE = (
        "fetches_failed_unreachable",
        "Fetches from peers that did not answer.",
    )
    FETCHES_SLOW = "fetches_slow", "Fetches cancelled because other peers were much faster."
    FETCHES_STALLED = "fetches_stalled", "Fetches cancelled because a peer sent nothing."
    LEASES_GIVEN_ON = "leases_given_on", "Leases taken from a node that made no progress."
    LEASES_GRANTED = "leases_granted", "Leases granted to nodes, to fetch from a registry."
    LEASES_LOST = "leases_lost", "Leases of this node that were granted to another instead."
    OTHER_CLUSTER_PACKETS = "other_cluster_packets", "Swarm packets of other clusters, ignored."
    PEERS_DISTRUSTED = "peers_distrusted", "Peers banned for bytes or hashes that were wrong."
    PEERS_FORGIVEN = "peers_forgiven", "Peers whose ban ended."
    PIECES_DOUBTED = "pieces_doubted", "Accepted pieces that were revoked and fetched again."
    PIECES_REFUSED = "pieces_refused", "Received pieces that did not match the announced hash."
    RENDEZVOUS_PASSED_OVER = "rendezvous_passed_over", "Rendezvous nodes that did not answer."
    RUNS_WITHOUT_LEASE = (
        "runs_without_lease",
        "Runs of pieces fetched from a registry without a lease, for lack of any other source.",
    )
    STRANGERS = "strangers", "Swarm packets from nodes that are no members."


COUNTERS: Final[Mapping[str, str]] = {count.value: count.help for count in Count}
"""The help text of each counter, by name."""
FAILED: Final = {
    FetchFailure.UNREACHABLE: Count.FETCHES_FAILED_UNREACHABLE,
    FetchFailure.BUSY: Count.FETCHES_FAILED_BUSY,
    FetchFailure.MISSING: Count.FETCHES_FAILED_MISSING,
    FetchFailure.BROKEN: Count.FETCHES_FAILED_BROKEN,
    FetchFailure.ORIGIN_REFUSED: Count.FETCHES_FAILED_ORIGIN_REFUSED,
    FetchFailure.ORIGIN_UNAVAILABLE: Count.FETCHES_FAILED_ORIGIN_UNAVAILABLE,
}
"""The counter of each way in which a fetch fails."""
