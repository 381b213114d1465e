"""One node's part in the swarm: every input takes the time and returns effects.

    effects = swarm.want(blob, now=now)
    effects = swarm.receive_datagram(data, source, now=now)
    accepted, effects = swarm.piece_arrived(fetch, piece, blake3, now=now)
    effects = swarm.advance(now=now)              # what is due
    deadline = swarm.next_deadline()              # when to call advance again

``now`` is in seconds on any clock that does not go backwards.

This module hands each input to the part whose idea it is. What follows from an input follows in one
order, at one place (``_follow_up``, ``_end``): bans are enforced, suspects audited, complete blobs
verified, fetches begun, registrations renewed, and messages to this node itself handled. A part
returns, or its input implies, which of these can be necessary (``FollowUp``).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, assert_never

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.sansio.wire import OtherCluster
from beiran.swarm.announcements import Announcements, CompleteBlob
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.context import (
    AnnounceDue,
    BanEnds,
    Context,
    DirectoryDue,
    FetchesDue,
    HashesDue,
    LeasingChanged,
    LingerEnds,
    QueryDue,
    RegisterDue,
    RepeatDue,
    ReportDue,
    Timer,
    WatchDue,
)
from beiran.swarm.counters import Count
from beiran.swarm.download import Download, Progress
from beiran.swarm.effects import Effect, FetchFailure, UploadAdmitted
from beiran.swarm.fetch_scheduler import Fetch, FetchScheduler
from beiran.swarm.integrity.bans import BanList
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.integrity.repair import Auditor, Enforcement, Repairer
from beiran.swarm.lifecycle import BlobWanted, Lifecycle
from beiran.swarm.messages import (
    Grant,
    HashesWanted,
    Have,
    LeaseAnswer,
    LeaseReport,
    LeaseState,
    Leave,
    Message,
    Participants,
    Register,
)
from beiran.swarm.rendezvous.directory import Directory
from beiran.swarm.rendezvous.leaseholder import Leaseholder
from beiran.swarm.rendezvous.registration import Ranking, Registrar
from beiran.swarm.selection import Peers
from beiran.swarm.upload_slots import Upload, UploadSlots

if TYPE_CHECKING:
    from random import Random

__all__ = ["BlobWanted", "SwarmNode"]


class FollowUp(Struct, frozen=True):
    """What can be necessary after an input, in the order in which it is done.

    Attributes:
      download: the download that the input was about.
      sources: a neighbour's ``Have`` of it came.
      audit: claims or pieces of it came, so there may be suspects.
      complete: pieces of it came, so it may be complete. ``brought_by``: the fetch that did.
      fill: there may be room for fetches, or pieces to fetch.
      register: what this node offers its rendezvous nodes may have changed.
    """

    download: Download | None = None
    sources: bool = False
    audit: bool = False
    complete: bool = False
    brought_by: Fetch | None = None
    fill: bool = False
    register: bool = False


NOTHING: Final = FollowUp()
FILL: Final = FollowUp(fill=True)
REGISTER: Final = FollowUp(register=True)


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
        self._complete_blobs: dict[Digest, CompleteBlob] = {}
        downloads, complete_blobs = self._downloads, self._complete_blobs
        self._bans = bans = BanList(context)
        self._peers = peers = Peers(config, random)
        self._uploads = uploads = UploadSlots(config)
        checker = Checker(bans)
        self._directory = directory = Directory(context, bans)
        self._announcements = announcements = Announcements(
            context, downloads, complete_blobs, bans=bans, checker=checker, uploads=uploads
        )
        self._scheduler = scheduler = FetchScheduler(context, peers, downloads)
        self._leaseholder = leaseholder = Leaseholder(context, downloads, scheduler)
        self._ranking = ranking = Ranking(context)
        self._registrar = registrar = Registrar(
            context,
            downloads,
            ranking=ranking,
            peers=peers,
            leaseholder=leaseholder,
            announcements=announcements,
        )
        self._repairer = repairer = Repairer(context, checker, scheduler, announcements)
        self._auditor = Auditor(context, scheduler, repairer)
        self._enforcement = Enforcement(
            bans,
            downloads,
            checker,
            announcements=announcements,
            repairer=repairer,
            scheduler=scheduler,
            registrar=registrar,
            directory=directory,
        )
        self._lifecycle = Lifecycle(
            context,
            downloads,
            complete_blobs,
            announcements=announcements,
            checker=checker,
            leaseholder=leaseholder,
            peers=peers,
            ranking=ranking,
            registrar=registrar,
            scheduler=scheduler,
            uploads=uploads,
        )

    # --- what is known ----------------------------------------------------------------------

    @property
    def own(self) -> NodeId:
        """This node."""
        return self._context.own

    @property
    def counters(self) -> dict[str, int]:
        """How often each thing happened since the start, by ``Count``."""
        return self._context.counters

    @property
    def banned(self) -> dict[NodeId, str]:
        """The banned peers, and why. To be read only."""
        return self._bans.reasons

    def progress(self, digest: Digest) -> Progress | None:
        """How far a blob is that was wanted, until it is dropped."""
        download = self._downloads.get(digest)
        return download.progress() if download else None

    def holds(self, digest: Digest, start: int, end: int) -> bool:
        """Whether the bytes from ``start`` to before ``end`` may be sent to a peer."""
        return self._lifecycle.holds(digest, start, end)

    def prefix_from_origin_bytes(self, digest: Digest) -> int:
        """How many bytes from the start of a blob in flight this node fetched from the origin."""
        return self._lifecycle.prefix_from_origin_bytes(digest)

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
        """The other members that are online, and their addresses.

        Args:
          generations: of their agents. One that has grown since a ban lifts the ban.
        """
        self._begin(now)
        context = self._context
        gone = [node for node in context.members if node not in members]
        others = {node: members[node] for node in sorted(members) if node != context.own}
        context.set_members(others)
        self._ranking.members_changed()
        self._bans.set_members(dict(generations or {}))
        for node in gone:
            self._scheduler.cancel_from(node, keep=True)
            self._peers.forget(node)
            for download in self._downloads.values():
                download.remove(node)
        self._directory.members_gone()
        self._leaseholder.members_gone()
        return self._end(REGISTER)

    def want(
        self, blob: BlobWanted, *, now: float, pieces_held: Mapping[int, bytes] | None = None
    ) -> list[Effect]:
        """Fetch a blob. If it is wanted already: add sources, an earlier rank, or the origin.

        Args:
          pieces_held: pieces in the partial file since before this node started, each with its
            BLAKE3.

        Raises: ValueError if it is wanted already with another size.
        """
        self._begin(now)
        download = self._lifecycle.want(blob, pieces_held or {})
        return self._end(FollowUp(download=download, complete=True, register=True))

    def drop(self, digest: Digest, *, now: float) -> list[Effect]:
        """A blob is not wanted any more."""
        self._begin(now)
        self._lifecycle.drop(digest)
        return self._end(REGISTER)

    def provide(
        self, digest: Digest, size_bytes: int, *, now: float, hashes: Sequence[bytes] = ()
    ) -> list[Effect]:
        """Serve a whole, verified blob. ``hashes``: the BLAKE3 of all its pieces, or none."""
        self._begin(now)
        self._lifecycle.provide(digest, size_bytes, hashes)
        return self._end()

    def withdraw(self, digest: Digest, *, now: float) -> list[Effect]:
        """Serve a blob no longer: this node does not have it any more."""
        self._begin(now)
        self._lifecycle.withdraw(digest)
        return self._end()

    def verified(self, digest: Digest, *, now: float) -> list[Effect]:
        """A complete blob has the right SHA-256. It is served from now on."""
        self._begin(now)
        self._lifecycle.verified(digest)
        return self._end()

    def damaged(self, digest: Digest, *, now: float) -> list[Effect]:
        """A complete blob has a wrong SHA-256, though each piece seemed right."""
        self._begin(now)
        download = self._downloads.get(digest)
        if download is not None and download.complete and not download.verified:
            self._repairer.on_damage(download)
            return self._end(FILL)
        return self._end()

    # --- inputs: the network ----------------------------------------------------------------

    def receive_datagram(self, data: bytes, source: Address, *, now: float) -> list[Effect]:
        """A datagram came. Whatever its bytes are, nothing is raised."""
        self._begin(now)
        context = self._context
        context.count(Count.DATAGRAMS_RECEIVED)
        try:
            message = context.codec.decode_untrusted(data)
            if message.sender in context.members:
                context.heard_at[message.sender] = now
                return self._end(self._receive(message))
            context.count(Count.STRANGERS)
        except OtherCluster:
            context.count(Count.OTHER_CLUSTER_PACKETS)
        except BadPacket:
            context.count(Count.BAD_PACKETS)
        return self._end()

    # --- inputs: fetches --------------------------------------------------------------------

    def fetch_answered(self, fetch: int, *, now: float) -> list[Effect]:
        """The source of a fetch begins to send."""
        self._begin(now)
        running = self._scheduler.get(fetch)
        if running is not None:
            self._scheduler.answered(running)
            self._leaseholder.throttle(running, throttled=False)
        return self._end()

    def fetch_throttled(self, fetch: int, *, now: float) -> list[Effect]:
        """A rate limit of this node makes a fetch wait: its source is not to blame.

        The driver calls this each time that the wait begins. It ends with the next byte, or with
        ``fetch_answered``.
        """
        self._begin(now)
        running = self._scheduler.get(fetch)
        if running is not None and running.node is not None:
            self._scheduler.answered(running)
        elif running is not None:
            self._leaseholder.throttle(running, throttled=True)
        return self._end()

    def fetch_progressed(self, fetch: int, bytes_done: int, *, now: float) -> list[Effect]:
        """A fetch has brought ``bytes_done`` bytes in all."""
        self._begin(now)
        running = self._scheduler.get(fetch)
        if running is not None:
            self._scheduler.progressed(running, bytes_done)
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
        running = self._scheduler.get(fetch)
        if running is None or not running.pieces >> piece & 1:
            return False, self._end()
        accepted = self._lifecycle.piece_arrived(running, piece, blake3)
        follow = FollowUp(download=running.download, audit=True, complete=True, brought_by=running)
        return accepted, self._end(follow)

    def fetch_done(self, fetch: int, *, now: float) -> list[Effect]:
        """A fetch has brought all its bytes, and ``piece_arrived`` was called for each piece."""
        self._begin(now)
        running = self._scheduler.get(fetch)
        if running is None:
            return self._end()
        if running.node is None and running.pieces & running.download.missing:
            return self._end(self._fail(running, FetchFailure.BROKEN))
        self._scheduler.done(running)
        self._leaseholder.fetch_ended(running)
        return self._end(FollowUp(download=running.download, complete=True, fill=True))

    def fetch_failed(self, fetch: int, failure: FetchFailure, *, now: float) -> list[Effect]:
        """A fetch ended early. What it brought of a piece is in the partial file."""
        self._begin(now)
        running = self._scheduler.get(fetch)
        if running is None:
            return self._end()
        return self._end(self._fail(running, failure))

    def _fail(self, running: Fetch, failure: FetchFailure) -> FollowUp:
        self._scheduler.failed(running, failure)
        if running.node is not None:
            return FILL
        refused = failure is FetchFailure.ORIGIN_REFUSED
        self._leaseholder.fetch_ended(
            running, failed=LeaseState.REFUSED if refused else LeaseState.FAILED
        )
        if running.lease is None and running.download.evidence.refetch:
            self._repairer.refetch(running.download)
        return FollowUp(fill=True, register=True)

    # --- inputs: uploads --------------------------------------------------------------------

    def begin_upload(
        self, digest: Digest, start: int, peer: NodeId, *, active: int = 0, now: float
    ) -> Upload | None:
        """A peer asks for bytes that this node holds. Returns None to answer BUSY.

        If the upload is not ``admitted`` yet, its first byte waits for ``UploadAdmitted``. The
        driver calls ``end_upload`` in any case.

        Args:
          active: how many other fetches bring bytes to the peer now, as its request says.
        """
        self._context.now = max(now, self._context.now)
        blob = self._complete_blobs.get(digest)
        download = self._downloads.get(digest)
        pieces = blob.pieces if blob else download.pieces if download else None
        piece = pieces.at(start) if pieces else 0
        return self._uploads.begin(peer, digest, piece, active, whole=blob is not None)

    def end_upload(self, upload: int, bytes_sent: int, *, now: float) -> list[Effect]:
        """An upload is over, complete or not."""
        self._begin(now)
        for admitted in self._uploads.end(upload, bytes_sent, now):
            self._context.emit(UploadAdmitted(admitted.number))
        return self._end()

    # --- time -------------------------------------------------------------------------------

    def advance(self, *, now: float) -> list[Effect]:
        """Do what is due."""
        self._begin(now)
        register = False
        while (timer := self._context.timers.pop_due(now)) is not None:
            register |= self._follow_up(self._handle(timer))
        return self._end(REGISTER if register else NOTHING)

    def _handle(self, timer: Timer) -> FollowUp:
        match timer:
            case AnnounceDue(digest=digest):
                self._announcements.announce(digest)
            case QueryDue(digest=digest, node=node):
                self._announcements.on_query_timer(digest, node)
                return REGISTER
            case HashesDue(digest=digest, node=node):
                if self._announcements.on_hashes_timer(digest, node):
                    return FILL
            case RepeatDue(digest=digest):
                self._announcements.repeat(digest)
            case FetchesDue():
                return FILL
            case WatchDue():
                self._watch()
            case RegisterDue(digest=digest):
                self._registrar.on_timer(digest)
            case LeasingChanged():
                return REGISTER
            case ReportDue(lease=lease):
                self._leaseholder.on_timer(lease)
            case DirectoryDue(swarm=swarm):
                self._directory.on_timer(swarm)
            case LingerEnds(digest=digest):
                self._lifecycle.on_linger_timer(digest)
            case BanEnds(node=node):
                self._bans.lift(node)
            case _:
                assert_never(timer)
        return NOTHING

    def _watch(self) -> None:
        """Look for revoked pieces to fetch, fetches that stall, and blobs without a source."""
        for download in self._downloads.values():
            self._repairer.refetch(download)
        self._scheduler.watch()
        self._scheduler.fill()
        self._lifecycle.fetch_without_lease()
        self._lifecycle.report_stuck()

    # --- one message ------------------------------------------------------------------------

    def _receive(self, message: Message) -> FollowUp:
        """Handle a member's message. Raises: BadPacket, and then nothing has changed."""
        match message:
            case Have():
                download = self._announcements.on_have(message)
                self._peers.note_load(message.sender, message.uploads)
                if download is not None and not download.complete:
                    return FollowUp(download=download, sources=True, audit=True, fill=True)
            case HashesWanted():
                self._announcements.on_hashes_wanted(message)
            case Register():
                self._directory.on_register(message)
            case Participants():
                self._registrar.on_participants(message)
                return REGISTER
            case Leave():
                self._directory.on_leave(message)
            case Grant():
                self._leaseholder.on_grant(message)
            case LeaseReport():
                self._directory.on_report(message)
            case LeaseAnswer():
                self._leaseholder.on_answer(message)
                return FILL
            case _:
                assert_never(message)
        return NOTHING

    # --- the end of each input --------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._context.now = max(now, self._context.now)

    def _follow_up(self, follow: FollowUp) -> bool:
        """Do what follows from an input. Returns whether registrations may be out of date."""
        register = self._enforcement.apply() or follow.register
        download = follow.download
        if download is not None:
            if follow.sources:
                self._enforcement.revoke_unsupported(download)
            if follow.audit:
                self._auditor.consider(download)
            if follow.sources:
                register |= self._registrar.sources_changed(download)
            if follow.complete:
                register |= self._lifecycle.check_complete(download, brought_by=follow.brought_by)
        if follow.fill:
            self._scheduler.fill()
        return register

    def _end(self, follow: FollowUp = NOTHING) -> list[Effect]:
        context = self._context
        register = self._follow_up(follow)
        while True:
            if register:
                self._registrar.update()
            if not context.to_self:
                return context.take_effects()
            try:
                register = self._follow_up(self._receive(context.to_self.popleft()))
            except BadPacket:
                context.count(Count.BAD_PACKETS)
                register = False
