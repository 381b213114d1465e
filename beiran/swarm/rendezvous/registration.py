"""This node as a participant: it registers each blob with the blob's rendezvous node.

*Rendezvous hashing* (highest random weight; Thaler and Ravishankar 1996): every node ranks all
online members by a hash of (digest, node), and the first one that answers is the blob's rendezvous
node. Nodes with the same members agree without a message. When the first one dies, they agree on
the second; members that come or go move only the blobs that they themselves are first for.

A registration says everything that the rendezvous node needs. So losing a registration, or the
rendezvous node itself, costs no more than the time until the next one (0.5 s).
"""

import hashlib
from typing import Final

from beiran.ids import Digest, NodeId
from beiran.swarm.announcements import Announcements
from beiran.swarm.config import NEIGHBOURS_MAX, SEEDS_MAX
from beiran.swarm.context import Context, RegisterDue
from beiran.swarm.counters import Count
from beiran.swarm.download import Download, Registration
from beiran.swarm.messages import Leave, Participants, Register
from beiran.swarm.pieces import pack_bits
from beiran.swarm.rendezvous.directory import register_interval_s
from beiran.swarm.rendezvous.leaseholder import Leaseholder
from beiran.swarm.selection import Peers

RANKED_MAX: Final = 8
"""Ranks kept of a blob. This node is the rendezvous node itself if none of them answers."""
LACKING_AFTER_S: Final = 0.5
"""A blob with nothing to fetch for this time lacks also the pieces that no neighbour has. Sooner,
announcements of them may still be on their way."""
PATIENCE_IF_HEARD: Final = 5
"""A rendezvous node that does not answer, but sends other datagrams, gets this many times more
tries: two rendezvous nodes that lease the same pieces cost the origin, and lost datagrams are no
reason for that. With a loss of 20 %, four tries fail in 2 % of the cases, twenty never."""
NUMBERS: Final = 2**32  # a registration's number wraps: the wire has 32 bits


class Ranking:
    """The rendezvous node of each blob."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rankings: dict[Digest, list[NodeId]] = {}
        self._unresponsive: dict[NodeId, float] = {}

    def first(self, digest: Digest) -> NodeId:
        """The rendezvous node of a blob: the first of the ranking that answers."""
        context = self._context
        ranking = self._rankings.get(digest)
        if ranking is None:
            ranking = sorted((context.own, *context.members), key=lambda n: weight(digest, n))
            ranking = self._rankings[digest] = ranking[: -RANKED_MAX - 1 : -1]
        for node in ranking:
            if self._unresponsive.get(node, context.now) <= context.now:
                return node
        return context.own

    def pass_over(self, node: NodeId) -> None:
        """``node`` does not answer: the next one is the rendezvous node for ``unresponsive_s``."""
        self._unresponsive[node] = self._context.now + self._context.config.unresponsive_s

    def members_changed(self) -> None:
        """Rank anew."""
        self._rankings.clear()
        for node in [n for n in self._unresponsive if n not in self._context.members]:
            del self._unresponsive[node]

    def forget(self, digest: Digest) -> None:
        """A blob is not wanted any more."""
        self._rankings.pop(digest, None)


class Registrar:
    """Keeps this node registered for all its downloads."""

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        *,
        ranking: Ranking,
        peers: Peers,
        leaseholder: Leaseholder,
        announcements: Announcements,
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._ranking = ranking
        self._peers = peers
        self._leaseholder = leaseholder
        self._announcements = announcements
        # At random, so that a restarted node's numbers are not taken for older ones.
        self._number = context.random.getrandbits(32)

    # --- sending ----------------------------------------------------------------------------

    def register(self, download: Download) -> None:
        """Send everything that the rendezvous node needs to know of a download."""
        context = self._context
        registration = download.registration
        registration.move(self._ranking.first(download.digest))
        self._number = self._number % (NUMBERS - 1) + 1
        registration.send(self._number, can_lease=self.can_lease(download))
        lacking = self.lacking(download)
        seeds = [] if download.complete else self._seeds(download)
        message = Register(
            context.own,
            download.digest,
            download.pieces.size_bytes,
            registration.number,
            pack_bits(download.held),
            pack_bits(self._leaseholder.fetching(download)),
            pack_bits(lacking),
            registration.can_lease,
            download.origin.possible,
            self._neighbours_wanted(download, lacking),
            tuple(seeds[:SEEDS_MAX]),
        )
        context.send(registration.rendezvous, message)
        context.set_timer(RegisterDue(download.digest), context.config.register_retry_s)

    def on_timer(self, digest: Digest) -> None:
        """A registration was not answered, or the next one is due."""
        download = self._downloads.get(digest)
        if download is None:
            return
        registration = download.registration
        if self._is_unresponsive(registration):
            self._context.count(Count.RENDEZVOUS_PASSED_OVER)
            self._ranking.pass_over(registration.rendezvous)
        self.register(download)

    def update(self) -> None:
        """Register where the rendezvous node, or whether this node can lease, has changed."""
        for download in self._downloads.values():
            registration = download.registration
            moved = registration.rendezvous != self._ranking.first(download.digest)
            if moved or registration.can_lease != self.can_lease(download):
                self.register(download)

    def leave(self, download: Download) -> None:
        """Take part no longer."""
        leave = Leave(self._context.own, download.digest)
        self._context.send(download.registration.rendezvous, leave)
        self._context.cancel_timer(RegisterDue(download.digest))

    def forget(self, download: Download) -> None:
        """A download ends: register it no more."""
        self._context.cancel_timer(RegisterDue(download.digest))
        self._ranking.forget(download.digest)

    def _neighbours_wanted(self, download: Download, lacking: int) -> int:
        """How many participants the answer should name.

        Half of what is wanted: the other half are nodes to which others are named.
        """
        if download.complete:
            return 0
        half = self._context.config.neighbours // 2
        known = 0
        if download.registration.answered:
            known = sum(1 for n in download.neighbours.values() if n.heard_from)
        wanted = half - known
        if lacking:
            wanted = max(wanted, 2)  # the rendezvous node names two that have lacking pieces
        return max(0, min(wanted, NEIGHBOURS_MAX))

    # --- receiving --------------------------------------------------------------------------

    def on_participants(self, message: Participants) -> None:
        """Note the rendezvous node's answer or news."""
        download = self._downloads.get(message.digest)
        if download is None or message.sender != download.registration.rendezvous:
            return
        context, registration = self._context, download.registration
        registration.receive(
            count=message.count,
            leasable=message.leasable,
            leased=message.leased,
            origin_possible=message.origin_possible,
            now=context.now,
        )
        for node in message.neighbours:
            self._announcements.meet(download, node, seed=False)
        for node in message.seeds:
            self._announcements.meet(download, node, seed=True)
        # An answer to any of the unanswered ones: on slow links, the answer to one comes after the
        # next was sent.
        if 0 <= (registration.number - message.number) % NUMBERS < registration.unanswered:
            registration.acknowledge()
            interval_s = register_interval_s(context.config, message.count)
            if download.verified:  # three registrations within the time for which it is a seed
                interval_s = max(interval_s, context.config.linger_s / 3)
            context.set_timer(RegisterDue(download.digest), interval_s)

    def _is_unresponsive(self, registration: Registration) -> bool:
        """Whether to pass over a rendezvous node: it is silent, or answers all nodes but this."""
        config = self._context.config
        if registration.unanswered < config.register_tries:
            return False
        since = self._context.now - config.register_tries * config.register_retry_s
        heard = self._context.heard_at.get(registration.rendezvous, 0.0) >= since
        patience = PATIENCE_IF_HEARD if heard else 1
        return registration.unanswered >= patience * config.register_tries

    # --- what this node offers and lacks ----------------------------------------------------

    def can_lease(self, download: Download) -> bool:
        """Whether this node takes leases on a blob now.

        Not if a peer has it whole. One blob after another, as an engine unpacks layers in order.
        """
        now = self._context.now
        origin = download.origin
        if not origin.allowed or download.complete or now < origin.retry_at:
            return False
        if self._seeds(download) or now < download.sources_due_at:
            return False
        return all(
            self._needs_no_origin(other)
            for other in self._downloads.values()
            if (other.rank, other.digest) < (download.rank, download.digest)
        )

    def sources_changed(self, download: Download) -> bool:
        """A neighbour's ``Have`` came. Returns whether to look over the registrations.

        Once all neighbours have answered, the origin need not wait for them any longer; and where
        one has the whole blob, this node offers to fetch from the origin no longer.
        """
        now = self._context.now
        waits = now < download.sources_due_at
        if waits and all(n.heard_from for n in download.neighbours.values()):
            download.await_sources(now)
            return True
        return download.registration.can_lease and bool(download.seeds())

    def lacking(self, download: Download) -> int:
        """The pieces that this node lacks and can ask no good peer for.

        At once those that only slow, failing or banned neighbours have; those that no neighbour
        has after ``LACKING_AFTER_S`` without a fetch.
        """
        now = self._context.now
        offered = found = 0
        for neighbour in download.neighbours.values():
            offered |= neighbour.held
            if self._peers.is_good(neighbour.node, now):
                found |= neighbour.usable
        lacking = download.missing & ~found & ~self._leaseholder.fetching(download)
        idle_since = download.idle_since
        if idle_since is None or now - idle_since < LACKING_AFTER_S:
            lacking &= offered
        return lacking

    def _needs_no_origin(self, download: Download) -> bool:
        """Whether the origin has nothing more to do for a blob now, as far as known."""
        return (
            download.complete
            or not download.origin.possible
            or download.stuck
            or not download.registration.leasable
            or self._context.now < download.origin.retry_at
            or bool(self._seeds(download))
        )

    def _seeds(self, download: Download) -> list[NodeId]:
        now = self._context.now
        return [node for node in download.seeds() if self._peers.is_good(node, now)]


def weight(digest: Digest, node: NodeId) -> bytes:
    """The random weight of a node for a blob, the same at every node."""
    return hashlib.blake2b(digest + node, digest_size=8, person=b"beiran-hrw").digest()
