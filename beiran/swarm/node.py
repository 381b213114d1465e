"""One node's part in the swarm: every input takes the time and returns effects.

    effects = swarm.want(blob, now=now)
    effects = swarm.receive_datagram(data, source, now=now)
    accepted, effects = swarm.piece_arrived(fetch, piece, blake3, now=now)
    effects = swarm.advance(now=now)              # whatever is due
    deadline = swarm.next_deadline()              # when to call advance again

``now`` is in seconds on any clock that does not go backwards. This module takes inputs apart and
hands each piece to the part whose idea it is.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from beiran.errors import BadPacket
from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.sansio.wire import OtherCluster
from beiran.swarm.announcements import Announcements, Provision
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Progress
from beiran.swarm.effects import Effect, FetchFailure, UploadAdmitted
from beiran.swarm.fallback import LastResorts
from beiran.swarm.fetch_scheduler import Fetching, in_download_order
from beiran.swarm.integrity.eviction import Liars
from beiran.swarm.integrity.origin_audit import Audits
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.integrity.repair import Damage
from beiran.swarm.inventory import Blobs, BlobWanted
from beiran.swarm.messages import (
    Grant,
    HashesWanted,
    Have,
    LeaseAnswer,
    LeaseReport,
    Leave,
    Message,
    Participants,
    Register,
)
from beiran.swarm.peer_scores import Peers
from beiran.swarm.received_pieces import Arrivals
from beiran.swarm.rendezvous.directory import Rendezvous
from beiran.swarm.rendezvous.lease_holder import Lessee
from beiran.swarm.rendezvous.registration import Registrar
from beiran.swarm.upload_slots import Upload, Uploads

if TYPE_CHECKING:
    from random import Random

__all__ = ["BlobWanted", "SwarmNode"]


class SwarmNode:
    """The core of one node.

    Args:
      cluster: its name; datagrams of others are counted and ignored.
    """

    def __init__(
        self, own: NodeId, *, cluster: str, config: SwarmConfig, random: "Random", now: float
    ) -> None:
        self._context = context = Context(own, config, SwarmCodec(cluster), random, now)
        self._downloads: dict[Digest, Download] = {}
        self._provisions: dict[Digest, Provision] = {}
        downloads, provisions = self._downloads, self._provisions
        self._peers = peers = Peers(config, random)
        self._uploads = uploads = Uploads(config)
        checker = Checker(context)
        self._rendezvous = Rendezvous(context)
        self._announcements = announcements = Announcements(
            context, downloads, provisions, checker, uploads=lambda: len(uploads)
        )
        self._fetching = fetching = Fetching(
            context,
            peers,
            in_order=lambda: in_download_order(downloads),
            lease_ended=lambda *ended: self._lessee.fetch_ended(*ended),
        )
        self._lessee = Lessee(
            context,
            downloads,
            start=fetching.begin_origin,
            position=fetching.position_bytes,
            cancel=fetching.cancel_number,
        )
        self._registrar = Registrar(
            context,
            downloads,
            fetching=self._lessee.fetching,
            good=self._good,
            meet=announcements.meet,
        )
        self._arrivals = Arrivals(context, peers, checker, fetching, announcements)
        self._damage = Damage(context, checker, fetching, announcements)
        self._audits = Audits(context, fetching, self._damage)
        self._liars = Liars(
            context,
            downloads,
            checker,
            announcements=announcements,
            damage=self._damage,
            fetching=fetching,
            registrar=self._registrar,
            rendezvous=self._rendezvous,
        )
        self._last_resorts = LastResorts(context, downloads, peers, fetching, self._registrar)
        self._blobs = Blobs(
            context,
            downloads,
            provisions,
            uploads,
            announcements=announcements,
            fetching=fetching,
            lessee=self._lessee,
            registrar=self._registrar,
        )

    # --- what is known ----------------------------------------------------------------------

    @property
    def own(self) -> NodeId:
        """Ourselves."""
        return self._context.own

    @property
    def counters(self) -> dict[str, int]:
        """What happened how often since the start."""
        return self._context.counters

    @property
    def distrusted(self) -> dict[NodeId, str]:
        """Who is left alone, and why. To be read only."""
        return self._context.distrusted

    def progress(self, digest: Digest) -> Progress | None:
        """How far a blob is that was wanted, until it is dropped."""
        download = self._downloads.get(digest)
        return download.progress() if download else None

    def holds(self, digest: Digest, start: int, end: int) -> bool:
        """Whether the bytes from ``start`` to before ``end`` may be given to a peer."""
        return self._blobs.holds(digest, start, end)

    def prefix_from_origin_bytes(self, digest: Digest) -> int:
        """How many bytes from the start we had from the origin ourselves, of a blob in flight."""
        return self._blobs.prefix_from_origin_bytes(digest)

    def next_deadline(self) -> float | None:
        """When ``advance`` has something to do, or None."""
        return self._context.timers.next_deadline()

    # --- inputs: the agent ------------------------------------------------------------------

    def set_members(
        self,
        members: Mapping[NodeId, Address],
        *,
        now: float,
        generations: Mapping[NodeId, int] | None = None,
    ) -> list[Effect]:
        """The other members that are online, and where they are.

        Args:
          generations: of their agents; one that has grown since its agent lied ends distrust.
        """
        self._begin(now)
        context = self._context
        context.generations = dict(generations or {})
        own = context.own
        gone = [node for node in context.members if node not in members]
        context.members = {node: members[node] for node in sorted(members) if node != own}
        context.members_changed()
        for node in gone:
            self._fetching.cancel_from(node, keep=True)
            self._peers.forget(node)
            for download in self._downloads.values():
                download.remove(node)
        self._rendezvous.members_gone()
        self._lessee.members_gone()
        self._liars.heed()
        context.reconsider = True
        return self._end()

    def want(
        self, blob: BlobWanted, *, now: float, pieces_held: Mapping[int, bytes] | None = None
    ) -> list[Effect]:
        """Fetch a blob; or, if it is wanted already: more sources, an earlier rank, the origin.

        Args:
          pieces_held: of an earlier life, piece to BLAKE3 of what is in the partial file.

        Raises: ValueError if it is wanted already with another size.
        """
        self._begin(now)
        download = self._blobs.want(blob, pieces_held or {})
        self._arrivals.check_complete(download)
        return self._end()

    def drop(self, digest: Digest, *, now: float) -> list[Effect]:
        """Nobody here wants a blob any more."""
        self._begin(now)
        self._blobs.drop(digest)
        return self._end()

    def provide(
        self,
        digest: Digest,
        size_bytes: int,
        *,
        now: float,
        hashes: Sequence[bytes] = (),
    ) -> list[Effect]:
        """We have a blob whole and verified: tell who asks. ``hashes``: BLAKE3 of all pieces."""
        self._begin(now)
        self._blobs.provide(digest, size_bytes, hashes)
        return self._end()

    def withdraw(self, digest: Digest, *, now: float) -> list[Effect]:
        """We have a blob no longer."""
        self._begin(now)
        self._blobs.withdraw(digest)
        return self._end()

    def verified(self, digest: Digest, *, now: float) -> list[Effect]:
        """The whole has the right SHA-256. From now on it is provided."""
        self._begin(now)
        self._blobs.verified(digest)
        return self._end()

    def damaged(self, digest: Digest, *, now: float) -> list[Effect]:
        """All pieces were accepted, and yet the whole has another SHA-256."""
        self._begin(now)
        download = self._downloads.get(digest)
        if download is not None and download.complete and not download.verified:
            self._damage.doubt(download)
            self._fetching.fill()
        return self._end()

    # --- inputs: the network ----------------------------------------------------------------

    def receive_datagram(self, data: bytes, source: Address, *, now: float) -> list[Effect]:
        """A datagram came in. Whatever it is, nothing is raised."""
        self._begin(now)
        self._context.counters["datagrams_received"] += 1
        try:
            message = self._context.codec.decode_untrusted(data)
            if message.sender not in self._context.members:
                self._context.counters["strangers"] += 1
            else:
                self._context.heard[message.sender] = now
                self._take(message)
        except BadPacket as error:
            other = isinstance(error, OtherCluster)
            self._context.counters["other_cluster_packets" if other else "bad_packets"] += 1
        return self._end()

    # --- inputs: fetches --------------------------------------------------------------------

    def fetch_answered(self, fetch: int, *, now: float) -> list[Effect]:
        """Who was asked begins to give."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None:
            self._fetching.answered(running)
            self._lessee.held_back(running.lease, held_back=False)
        return self._end()

    def fetch_held_back(self, fetch: int, *, now: float) -> list[Effect]:
        """A limit of our own keeps a fetch waiting: nobody else is to blame.

        To be told whenever that begins; it ends with the next byte, or with ``fetch_answered``.
        """
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None and running.node is not None:
            self._fetching.answered(running)
        elif running is not None:
            self._lessee.held_back(running.lease, held_back=True)
        return self._end()

    def fetch_progressed(self, fetch: int, bytes_done: int, *, now: float) -> list[Effect]:
        """A fetch has brought so many bytes in all."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None:
            self._fetching.progressed(running, bytes_done)
        return self._end()

    def piece_arrived(
        self, fetch: int, piece: int, blake3: bytes, *, now: float
    ) -> tuple[bool, list[Effect]]:
        """A fetch has brought the last byte of a piece.

        Args:
          blake3: of the whole piece, 32 bytes.

        Returns: whether the piece is accepted by this fetch's bytes, and the effects. False for a
          piece that is held already, and for a fetch that has ended.
        """
        self._begin(now)
        accepted = False
        running = self._fetching.get(fetch)
        if running is not None and running.pieces >> piece & 1:
            accepted = self._arrivals.arrived(running, piece, blake3)
            self._liars.heed()
            self._audits.consider(running.download)
            self._arrivals.check_complete(running.download, brought_by=running)
        return accepted, self._end()

    def fetch_done(self, fetch: int, *, now: float) -> list[Effect]:
        """A fetch has brought all of its bytes, and each piece was told of."""
        running = self._fetching.get(fetch)
        lost = running is not None and running.pieces & running.download.missing
        if running is not None and running.node is None and lost:
            return self.fetch_failed(fetch, FetchFailure.BROKEN, now=now)
        self._begin(now)
        if running is not None:
            self._fetching.ended(running)
            self._arrivals.check_complete(running.download)
            self._fetching.fill()
        return self._end()

    def fetch_failed(self, fetch: int, failure: FetchFailure, *, now: float) -> list[Effect]:
        """A fetch ended early; what it brought of a piece is in the partial file."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None:
            self._fetching.failed(running, failure)
            if running.node is None:
                self._context.reconsider = True
                if running.lease is None and running.download.recheck:
                    self._damage.recheck(running.download)
            self._fetching.fill()
        return self._end()

    # --- inputs: uploads --------------------------------------------------------------------

    def begin_upload(
        self, digest: Digest, start: int, peer: NodeId, *, active: int = 0, now: float
    ) -> Upload | None:
        """A peer asks for bytes that we hold. None: BUSY.

        If it is not ``admitted`` yet, wait for ``UploadAdmitted`` before the first byte; whatever
        happens, ``end_upload`` is told.
        """
        self._context.now = max(now, self._context.now)
        provision = self._provisions.get(digest)
        download = self._downloads.get(digest)
        pieces = provision.pieces if provision else download.pieces if download else None
        piece = pieces.at(start) if pieces else 0
        return self._uploads.begin(peer, digest, piece, active, whole=provision is not None)

    def end_upload(self, upload: int, bytes_sent: int, *, now: float) -> list[Effect]:
        """An upload is over, whether all was sent, or nothing."""
        self._begin(now)
        for admitted in self._uploads.end(upload, bytes_sent, now):
            self._context.emit(UploadAdmitted(admitted.number))
        return self._end()

    # --- time -------------------------------------------------------------------------------

    def advance(self, *, now: float) -> list[Effect]:
        """Do whatever is due."""
        self._begin(now)
        while (due := self._context.timers.pop_due(now)) is not None:
            kind, about = due
            match kind:
                case "announce":
                    self._announcements.on_announce_timer(about)
                case "ask":
                    self._announcements.on_ask_timer(about)
                    self._context.reconsider = True
                case "hashes":
                    if self._announcements.on_hashes_timer(about):
                        self._fetching.fill()
                case "fill":
                    self._fetching.fill()
                case "linger":
                    self._blobs.on_linger_timer(about)
                case "register":
                    self._registrar.on_timer(about)
                case "rendezvous":
                    self._rendezvous.on_timer(about)
                case "repeat":
                    self._announcements.on_repeat_timer(about)
                case "report":
                    self._lessee.on_timer(about)
                case "trust":
                    assert isinstance(about, bytes)
                    self._context.forgive(NodeId(about))
                    self._liars.heed()
                case "watch":
                    for download in self._downloads.values():
                        self._damage.recheck(download)
                    self._fetching.watch()
                    self._fetching.fill()
                    self._last_resorts.help_ourselves()
                    self._last_resorts.look_for_stuck()
                case _:  # "willing"
                    self._context.reconsider = True
        return self._end()

    # --- parts ------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._context.now = max(now, self._context.now)
        self._context.effects = []

    def _end(self) -> list[Effect]:
        context = self._context
        while True:
            if context.reconsider:
                context.reconsider = False
                self._registrar.update(list(self._downloads.values()))
            if not context.to_self:
                return context.effects
            try:
                self._take(context.to_self.popleft())
            except BadPacket:
                context.counters["bad_packets"] += 1

    def _take(self, message: Message) -> None:
        """One message. Raises: BadPacket, and then nothing has changed."""
        match message:
            case Have():
                download = self._announcements.on_have(message)
                self._liars.heed()
                self._peers.get(message.sender).load = message.uploads
                if download is not None and not download.complete:
                    self._liars.discard(download)
                    self._heard(download)
            case HashesWanted():
                self._announcements.on_hashes_wanted(message)
            case Register():
                self._rendezvous.on_register(message)
            case Participants():
                self._registrar.on_participants(message)
                self._context.reconsider = True
            case Leave():
                self._rendezvous.on_leave(message)
            case Grant():
                self._lessee.on_grant(message)
            case LeaseReport():
                self._rendezvous.on_report(message)
            case LeaseAnswer():
                self._lessee.on_answer(message)
                self._fetching.fill()

    def _heard(self, download: Download) -> None:
        context = self._context
        self._audits.consider(download)
        waiting = context.now < download.sources_due_at
        if waiting and all(n.heard for n in download.neighbours.values()):
            download.sources_due_at = context.now
            context.reconsider = True
        if not context.reconsider and download.registration.willing and download.seeds():
            context.reconsider = True
        self._fetching.fill()

    def _good(self, node: NodeId) -> bool:
        return not (self._peers.crawls(node, self._context.now) or self._peers.lost(node))
