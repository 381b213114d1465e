"""One node's part in the swarm: every input takes the time and returns effects.

    effects = swarm.want(blob, now=now)
    effects = swarm.receive_datagram(data, source, now=now)
    effects = swarm.piece_arrived(fetch, piece, blake3, now=now)
    effects = swarm.advance(now=now)              # whatever is due
    deadline = swarm.next_deadline()              # when to call advance again

``now`` is in seconds on any clock that does not go backwards. This module takes inputs apart and
hands each piece to the part whose idea it is.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.gossip.codec import OtherCluster
from beiran.gossip.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.announcements import Announcements, Provision
from beiran.swarm.checking import Checker, Verdict
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import DAMAGED_MAX, HASH_BYTES, LEASE_PIECES_MAX, SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Progress, Registration
from beiran.swarm.effects import (
    BlobComplete,
    BlobStuck,
    Effect,
    FetchFailure,
    PieceAccepted,
    PieceDoubted,
    UploadAdmitted,
)
from beiran.swarm.fetching import Fetching, in_download_order
from beiran.swarm.lessee import Lessee
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
from beiran.swarm.peers import Peers
from beiran.swarm.pieces import cut, lowest_run, members
from beiran.swarm.registration import Registrar
from beiran.swarm.rendezvous import Rendezvous
from beiran.swarm.uploads import Upload, Uploads

if TYPE_CHECKING:
    from random import Random

SOURCES_ANSWER_S: Final = 0.4  # the origin is left alone so long, until those said to have it spoke


class BlobWanted(Struct, frozen=True):
    """A blob to be fetched.

    Attributes:
      size_bytes: as its descriptor says.
      from_origin: an origin can give it, so leases are worth asking for.
      rank: lower ones are fetched first; equal ones by digest.
      sources: nodes believed to have it whole.
    """

    digest: Digest
    size_bytes: int
    from_origin: bool
    rank: int = 0
    sources: tuple[NodeId, ...] = ()


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
        self._peers = Peers(config, random)
        self._uploads = Uploads(config)
        self._checker = Checker(context)
        self._rendezvous = Rendezvous(context)
        self._announcements = Announcements(
            context,
            self._downloads,
            self._provisions,
            self._checker,
            uploads=lambda: len(self._uploads),
        )
        self._fetching = Fetching(
            context,
            self._peers,
            in_order=lambda: in_download_order(self._downloads),
            lease_ended=lambda *ended: self._lessee.fetch_ended(*ended),
        )
        self._lessee = Lessee(
            context,
            self._downloads,
            start=self._fetching.begin_origin,
            position=self._fetching.position_bytes,
            cancel=self._fetching.cancel_number,
        )
        self._registrar = Registrar(
            context,
            self._downloads,
            fetching=self._lessee.fetching,
            good=self._good,
            meet=self._announcements.meet,
        )
        self._reconsider = False
        self._distrusted_seen = 0

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
        if end <= start or start < 0:
            return False
        provision = self._provisions.get(digest)
        if provision is not None:
            return end <= provision.pieces.size_bytes
        download = self._downloads.get(digest)
        if download is None or end > download.pieces.size_bytes:
            return False
        return not download.pieces.within(start, end) & ~download.held

    def prefix_from_origin_bytes(self, digest: Digest) -> int:
        """How many bytes from the start we had from the origin ourselves, of a blob in flight."""
        download = self._downloads.get(digest)
        if download is None:
            return 0
        lacking = ~download.first_hand
        piece = (lacking & -lacking).bit_length() - 1
        if piece >= download.pieces.count:
            return download.pieces.size_bytes
        return self._fetching.origin_prefix(download, download.pieces.start(piece))

    def next_deadline(self) -> float | None:
        """When ``advance`` has something to do, or None."""
        return self._context.timers.next_deadline()

    # --- inputs: the agent ------------------------------------------------------------------

    def set_members(self, members: Mapping[NodeId, Address], *, now: float) -> list[Effect]:
        """The other members that are online, and where they are."""
        self._begin(now)
        context = self._context
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
        self._reconsider = True
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
        context = self._context
        download = self._downloads.get(blob.digest)
        if download is not None and download.pieces.size_bytes != blob.size_bytes:
            raise ValueError("the blob is wanted already with another size")
        begun = download is None
        if download is None:
            registration = Registration(context.rendezvous(blob.digest))
            pieces = cut(blob.size_bytes)
            download = Download(blob.digest, pieces, blob.rank, registration)
            self._downloads[blob.digest] = download
            for piece, hash in (pieces_held or {}).items():
                if 0 <= piece < pieces.count:
                    download.held |= 1 << piece
                    download.hashes[piece] = hash[:HASH_BYTES]
        download.rank = min(download.rank, blob.rank)
        if blob.from_origin and (not download.from_origin or download.stuck_told):
            download.from_origin, download.refused = True, False
            download.origin_failures, download.origin_again_at = 0, now
        download.stuck_told, download.stuck_since = False, None
        for node in blob.sources:
            self._announcements.meet(download, node, True)
        if blob.sources and begun and download.neighbours:
            download.sources_due_at = now + SOURCES_ANSWER_S
            context.set_timer("willing", None, SOURCES_ANSWER_S)
        if begun:
            self._registrar.register(download)
            context.set_timer("repeat", blob.digest, context.config.repeat_have_s)
            context.set_timer_by("watch", None, context.config.stalled_s)
        self._reconsider = True
        self._fetching.fill()
        self._check_complete(download)
        return self._end()

    def drop(self, digest: Digest, *, now: float) -> list[Effect]:
        """Nobody here wants a blob any more."""
        self._begin(now)
        download = self._downloads.get(digest)
        if download is not None:
            self._fetching.cancel_all(download)
            self._lessee.dropped(digest)
            if not download.verified:
                self._registrar.leave(download)
                self._announcements.gone(download)
            self._forget(download)
            self._fetching.fill()
            self._reconsider = True
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
        pieces = cut(size_bytes)
        known = {piece: hash[:HASH_BYTES] for piece, hash in enumerate(hashes)}
        if len(known) != pieces.count:
            known = {}
        old = self._provisions.get(digest)
        if old is None or known:
            self._provisions[digest] = Provision(pieces, known)
        return self._end()

    def withdraw(self, digest: Digest, *, now: float) -> list[Effect]:
        """We have a blob no longer."""
        self._begin(now)
        if self._provisions.pop(digest, None) is not None:
            self._uploads.forget(digest)
        download = self._downloads.get(digest)
        if download is not None and download.verified:
            self._registrar.leave(download)
            self._announcements.gone(download)
            self._forget(download)
        return self._end()

    def verified(self, digest: Digest, *, now: float) -> list[Effect]:
        """The whole has the right SHA-256. From now on it is provided."""
        self._begin(now)
        download = self._downloads.get(digest)
        if download is not None and download.complete and not download.verified:
            download.verified = True
            self._provisions[digest] = Provision(
                download.pieces, dict(download.hashes), download.first_hand
            )
            self._context.cancel_timer("repeat", digest)
            self._announcements.on_announce_timer(digest)
            self._registrar.register(download)
            self._context.set_timer("linger", digest, self._context.config.linger_s)
        return self._end()

    def damaged(self, digest: Digest, *, now: float) -> list[Effect]:
        """All pieces were accepted, and yet the whole has another SHA-256."""
        self._begin(now)
        download = self._downloads.get(digest)
        if download is not None and download.complete and not download.verified:
            self._context.counters["blobs_damaged"] += 1
            self._doubt(download)
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
        return self._end()

    def fetch_progressed(self, fetch: int, bytes_done: int, *, now: float) -> list[Effect]:
        """A fetch has brought so many bytes in all."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None:
            self._fetching.progressed(running, bytes_done)
        return self._end()

    def piece_arrived(self, fetch: int, piece: int, blake3: bytes, *, now: float) -> list[Effect]:
        """A fetch has brought the last byte of a piece. ``blake3``: of the whole piece."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is None or not running.pieces >> piece & 1:
            return self._end()
        download, hash = running.download, blake3[:HASH_BYTES]
        self._fetching.progressed(running, download.pieces.end(piece) - running.start)
        if running.node is None:
            self._accept(download, piece, hash, None)
            self._checker.from_origin(download, piece, hash)
        elif download.held >> piece & 1:
            download.wasted_bytes += download.pieces.length(piece)
        else:
            mixed = running.mixed and piece == download.pieces.at(running.start)
            verdict = self._checker.judge(download, running.node, piece, hash, mixed=mixed)
            if verdict is Verdict.ACCEPT:
                self._accept(download, piece, hash, running.node)
            else:
                self._context.counters["pieces_refused"] += 1
                download.wasted_bytes += download.pieces.length(piece)
                download.partial.pop(piece, None)
                neighbour = download.neighbours.get(running.node)
                self._announcements.ask_hashes(download, running.node)
                if mixed and neighbour is not None:
                    self._peers.failed(running.node, now)
        self._drop_distrusted()
        self._check_complete(download)
        return self._end()

    def fetch_done(self, fetch: int, *, now: float) -> list[Effect]:
        """A fetch has brought all of its bytes, and each piece was told of."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None:
            self._fetching.ended(running)
            self._check_complete(running.download)
            self._fetching.fill()
        return self._end()

    def fetch_failed(self, fetch: int, failure: FetchFailure, *, now: float) -> list[Effect]:
        """A fetch ended early; what it brought of a piece is in the partial file."""
        self._begin(now)
        running = self._fetching.get(fetch)
        if running is not None:
            self._fetching.failed(running, failure)
            if running.node is None:
                self._reconsider = True
                if running.lease is None and running.download.recheck:
                    self._recheck(running.download)
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
                    self._reconsider = True
                case "hashes":
                    if self._announcements.on_hashes_timer(about):
                        self._fetching.fill()
                case "fill":
                    self._fetching.fill()
                case "linger":
                    self._end_linger(about)
                case "register":
                    self._registrar.on_timer(about)
                case "rendezvous":
                    self._rendezvous.on_timer(about)
                case "repeat":
                    self._announcements.on_repeat_timer(about)
                case "report":
                    self._lessee.on_timer(about)
                case "watch":
                    self._fetching.watch()
                    self._fetching.fill()
                    self._help_ourselves()
                    self._look_for_stuck()
                case _:  # "willing"
                    self._reconsider = True
        return self._end()

    # --- parts ------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._context.now = max(now, self._context.now)
        self._context.effects = []

    def _end(self) -> list[Effect]:
        context = self._context
        while True:
            if self._reconsider:
                self._reconsider = False
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
                self._drop_distrusted()
                self._peers.get(message.sender).load = message.uploads
                if download is not None and not download.complete:
                    self._heard(download)
            case HashesWanted():
                self._announcements.on_hashes_wanted(message)
            case Register():
                self._rendezvous.on_register(message)
            case Participants():
                self._registrar.on_participants(message)
                self._reconsider = True
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
        waiting = self._context.now < download.sources_due_at
        if waiting and all(n.heard for n in download.neighbours.values()):
            download.sources_due_at = self._context.now
            self._reconsider = True
        if not self._reconsider and download.registration.willing and download.seeds():
            self._reconsider = True
        self._fetching.fill()

    def _accept(self, download: Download, piece: int, hash: bytes, giver: NodeId | None) -> None:
        bit = 1 << piece
        download.held |= bit
        download.hashes[piece] = hash
        download.recheck &= ~bit
        download.partial.pop(piece, None)
        if giver is None:
            download.first_hand |= bit
            download.origin_failures = 0
            download.givers.pop(piece, None)
        else:
            download.givers[piece] = giver
            download.alone = False
        self._context.emit(PieceAccepted(download.digest, piece))
        if download.fetches.get(piece, 0) > 1:
            self._fetching.cancel_piece(download, piece)
        self._announcements.piece_accepted(download)

    def _check_complete(self, download: Download) -> None:
        if download.complete and not download.complete_told and not download.verified:
            download.complete_told = True
            for piece in list(download.fetches):
                self._fetching.cancel_piece(download, piece)
            self._context.emit(BlobComplete(download.digest))
            self._reconsider = True

    def _drop_distrusted(self) -> None:
        """Leave alone whom we distrust since this input."""
        distrusted = self._context.distrusted
        if len(distrusted) == self._distrusted_seen:
            return
        self._distrusted_seen = len(distrusted)
        for node in distrusted:
            self._fetching.cancel_from(node, keep=False)
            for download in self._downloads.values():
                neighbour = download.neighbours.get(node)
                if neighbour is not None:  # it is given what it lacks, but asked for nothing
                    download.shun(neighbour)
        self._fetching.fill()

    def _doubt(self, download: Download) -> None:
        """Find the wrong pieces: fetch doubtful ones again, from the origin or from others."""
        download.times_damaged += 1
        doubtful = self._checker.doubtful(download)
        if not doubtful or download.times_damaged > DAMAGED_MAX:
            download.given_up = True
            download.stuck_told = True
            who = "peers give" if doubtful else "the origin gives"
            self._context.emit(BlobStuck(download.digest, f"what {who} has another SHA-256"))
            return
        download.complete_told = False
        download.corrected |= doubtful
        for each in download.neighbours.values():
            each.told &= ~doubtful
        for piece in members(doubtful):
            bit = 1 << piece
            giver = download.givers.pop(piece, None)
            neighbour = download.neighbours.get(giver) if giver is not None else None
            download.held &= ~bit
            if neighbour is not None:
                download.set_unfit(neighbour, bit)
            del download.hashes[piece]
            self._context.emit(PieceDoubted(download.digest, piece))
        if download.able:
            download.recheck = doubtful
            self._recheck(download)

    def _recheck(self, download: Download) -> None:
        """Fetch doubted pieces from the origin ourselves; from peers if it does not give them."""
        if not download.able or download.origin_failures:
            download.recheck = 0
            return
        left = download.recheck & ~download.in_flight
        while left:
            run = lowest_run(left)
            left &= ~run
            self._fetching.begin_origin(download, run, None)

    def _help_ourselves(self) -> None:
        """Fetch from the origin without a lease, where peers and leases fail us for long.

        So a node that others have reason to leave alone, or whose rendezvous node is of no use,
        gets its image all the same.
        """
        context = self._context
        for download in in_download_order(self._downloads):
            idle_since = download.idle_since
            if idle_since is None or not self._registrar.able(download) or download.in_flight:
                continue
            if context.now < max(download.origin_again_at, download.sources_due_at):
                continue
            registration = download.registration
            waited = context.now - idle_since > context.config.alone_s
            served = registration.answered and (registration.leasable or registration.leased)
            if download.alone or (waited and not served):
                run = lowest_run(self._registrar.starved(download) & ~download.recheck)
                if run:
                    download.alone = True
                    context.counters["runs_without_lease"] += 1
                    run &= (run & -run) * ((1 << LEASE_PIECES_MAX) - 1)
                    self._fetching.begin_origin(download, run, None)
                return

    def _look_for_stuck(self) -> None:
        for download in in_download_order(self._downloads):
            if download.stuck_told or not self._sourceless(download):
                download.stuck_since = None
            elif download.stuck_since is None:
                download.stuck_since = self._context.now
            elif self._context.now - download.stuck_since >= self._context.config.stuck_s:
                download.stuck_told = True
                reason = "no peer has all of it, and no origin gives it"
                if download.refused:
                    reason = "no peer has all of it, and the origin refused it"
                elif download.origin_failures:
                    reason = "no peer has all of it, and the origin is unavailable"
                self._context.emit(BlobStuck(download.digest, reason))

    def _sourceless(self, download: Download) -> bool:
        if self._registrar.able(download) or self._fetching.from_peers(download):
            return False
        registration = download.registration
        if registration.hopeful and registration.count > 1:
            return False
        needed = download.missing
        return not any(
            n.fit & needed and not self._peers.lost(n.node) for n in download.neighbours.values()
        )

    def _end_linger(self, digest: object) -> None:
        download = self._downloads.get(digest)  # type: ignore[call-overload]
        if download is not None and download.verified:
            self._forget(download)

    def _forget(self, download: Download) -> None:
        context = self._context
        del self._downloads[download.digest]
        for kind in ("register", "announce", "repeat", "linger"):
            context.cancel_timer(kind, download.digest)
        context.forget_ranking(download.digest)
        self._uploads.forget(download.digest)

    def _good(self, node: NodeId) -> bool:
        peer = self._peers.get(node)
        return self._context.now >= peer.slow_until and not self._peers.lost(node)
