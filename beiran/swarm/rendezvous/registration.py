"""Our part as a participant: we register with each blob's rendezvous node, again and again.

A registration tells everything that the rendezvous node needs, so that losing one, or the
rendezvous node itself, costs no more than the next one.
"""

from collections.abc import Callable
from typing import Final

from beiran.ids import Digest, NodeId
from beiran.swarm.config import NEIGHBOURS_MAX, SEEDS_MAX
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Registration
from beiran.swarm.messages import Leave, Participants, Register
from beiran.swarm.pieces import pack_bits
from beiran.swarm.rendezvous.directory import register_interval_s

IDLE_S: Final = 0.5  # nothing to ask for and nobody to ask: starved
PATIENCE_HEARD: Final = 5  # so many times longer, while other datagrams come from it
NUMBERS: Final = 2**32
ABLE_FAILURES: Final = 6  # an origin that failed so often in a row is not counted on


class Registrar:
    """Keeps us registered for all our blobs.

    Args:
      downloads: the blobs in flight, changed by others.
      fetching: pieces of a blob that we fetch from the origin just now.
      good: a node answers, and is not slow.
      meet: we are told of a node that takes part, or (True) has all of a blob.
    """

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        *,
        fetching: Callable[[Download], int],
        good: Callable[[NodeId], bool],
        meet: Callable[[Download, NodeId, bool], None],
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._fetching = fetching
        self._good = good
        self._meet = meet
        self._number = context.random.getrandbits(32)  # another life's are not mistaken for older

    def register(self, download: Download) -> None:
        """Tell the rendezvous node where we are."""
        context, config = self._context, self._context.config
        registration = download.registration
        rendezvous = context.rendezvous(download.digest)
        if rendezvous != registration.rendezvous:
            registration.rendezvous = rendezvous
            registration.answered = False
            registration.unanswered = 0
        self._number = self._number % (NUMBERS - 1) + 1
        registration.number = self._number
        registration.unanswered += 1
        registration.willing = self.willing(download)
        starved = self.starved(download)
        neighbours = sum(1 for n in download.neighbours.values() if n.heard)
        wanted = config.neighbours // 2 - neighbours
        if not registration.answered:
            wanted = config.neighbours // 2
        if starved:
            wanted = max(wanted, 2)
        if download.complete:
            wanted = 0
        seeds = [] if download.complete else self._seeds(download)
        context.send(
            rendezvous,
            Register(
                context.own,
                download.digest,
                download.pieces.size_bytes,
                registration.number,
                pack_bits(download.held),
                pack_bits(self._fetching(download)),
                pack_bits(starved),
                registration.willing,
                self.able(download),
                max(0, min(wanted, NEIGHBOURS_MAX)),
                tuple(seeds[:SEEDS_MAX]),
            ),
        )
        context.set_timer("register", download.digest, config.register_retry_s)

    def on_timer(self, digest: object) -> None:
        """A registration was not answered, or the next is due."""
        download = self._downloads.get(digest)  # type: ignore[call-overload]
        if download is None:
            return
        registration = download.registration
        if self._gives_no_answer(registration):
            self._context.counters["rendezvous_passed_over"] += 1
            self._context.pass_over(registration.rendezvous)
        self.register(download)

    def _gives_no_answer(self, registration: Registration) -> bool:
        """Whether to pass over a rendezvous node: it is silent, or answers all but us.

        Two that lease the same pieces cost origin bytes, so losing a few datagrams is no reason.
        """
        config = self._context.config
        if registration.unanswered < config.register_tries:
            return False
        since = self._context.now - config.register_tries * config.register_retry_s
        heard_at = self._context.heard.get(registration.rendezvous, 0.0)
        patience = 1 if heard_at < since else PATIENCE_HEARD
        return registration.unanswered >= patience * config.register_tries

    def on_participants(self, message: Participants) -> None:
        """The rendezvous node's answer, or its news."""
        download = self._downloads.get(message.digest)
        if download is None or message.sender != download.registration.rendezvous:
            return
        registration = download.registration
        registration.count = message.count
        registration.leasable = message.leasable
        registration.leased = message.leased
        registration.hopeful = message.hopeful
        if message.leasable or message.leased:
            download.leased_at = self._context.now
        for node in message.neighbours:
            self._meet(download, node, False)
        for node in message.seeds:
            self._meet(download, node, True)
        # To any that we wait for: on slow links, the answer to one comes after the next was sent.
        if 0 <= (registration.number - message.number) % NUMBERS < registration.unanswered:
            registration.unanswered = 0
            registration.answered = True
            config = self._context.config
            interval_s = register_interval_s(config, message.count)
            if download.verified:
                interval_s = max(interval_s, config.linger_s / 3)
            self._context.set_timer("register", download.digest, interval_s)

    def update(self, in_order: list[Download]) -> None:
        """Tell at once where a rendezvous node is another now, or we are (un)willing now."""
        for download in in_order:
            registration = download.registration
            changed = registration.rendezvous != self._context.rendezvous(download.digest)
            if changed or registration.willing != self.willing(download):
                self.register(download)

    def leave(self, download: Download) -> None:
        """We take part no longer."""
        self._context.send(
            download.registration.rendezvous, Leave(self._context.own, download.digest)
        )
        self._context.cancel_timer("register", download.digest)

    def able(self, download: Download) -> bool:
        """Whether the origin may give us the blob, now or soon."""
        return download.able and download.origin_failures < ABLE_FAILURES

    def willing(self, download: Download) -> bool:
        """Whether we take leases on a blob now.

        Not where peers have it whole; and blob after blob, for an engine unpacks them so.
        """
        now = self._context.now
        if not download.able or download.complete or now < download.origin_again_at:
            return False
        if self._seeds(download):
            return False
        if now < download.sources_due_at:
            return False
        return all(
            self._settled(other)
            for other in self._downloads.values()
            if (other.rank, other.digest) < (download.rank, download.digest)
        )

    def _settled(self, download: Download) -> bool:
        """Whether the origin has nothing more to do for a blob, as far as we know."""
        return (
            download.complete
            or not self.able(download)
            or download.stuck_told
            or not download.registration.leasable
            or self._context.now < download.origin_again_at
            or bool(self._seeds(download))
        )

    def starved(self, download: Download) -> int:
        """Pieces that we lack and find nobody to give.

        At once those that only slow, failing or lying neighbours have; those that no neighbour
        has once we have nothing to do: they may be on their way.
        """
        known = found = 0
        for neighbour in download.neighbours.values():
            known |= neighbour.held
            if self._good(neighbour.node):
                found |= neighbour.fit
        lacking = download.missing & ~found & ~self._fetching(download)
        idle_since = download.idle_since
        if idle_since is None or self._context.now - idle_since < IDLE_S:
            lacking &= known
        return lacking

    def _seeds(self, download: Download) -> list[NodeId]:
        return [node for node in download.seeds() if self._good(node)]
