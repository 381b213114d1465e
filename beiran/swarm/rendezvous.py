"""Our part as the rendezvous node of blobs: who takes part is told here, and leases are given.

Any node can be one, also for a blob that it does not want itself. It is asked again and again by
those who take part, so nothing that it knows is precious: the next one learns it within a moment.
"""

from typing import Final

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.ids import Digest, NodeId
from beiran.swarm.config import (
    NEIGHBOURS_MAX,
    PARTICIPANTS_MAX,
    SEEDS_MAX,
    TRACKED_MAX,
    SwarmConfig,
)
from beiran.swarm.context import Context
from beiran.swarm.leases import Lease, Leases, Participant
from beiran.swarm.messages import (
    Grant,
    LeaseAnswer,
    LeaseReport,
    LeaseState,
    Leave,
    Participants,
    Register,
)
from beiran.swarm.pieces import cut, unpack_bits_untrusted

CHECK_S: Final = 0.1
SILENT_INTERVALS: Final = 4  # a participant that misses so many registrations is gone
GRANT_AGAIN_S: Final = 0.15
CROWD: Final = 400  # above, participants register less often: the rendezvous node has one CPU


class _Tracked(Struct):
    size_bytes: int
    leases: Leases
    order: list[NodeId]


def register_interval_s(config: SwarmConfig, count: int) -> float:
    """How often each of ``count`` participants registers, in seconds."""
    return config.register_interval_s * max(1.0, count / CROWD)


class Rendezvous:
    """All blobs that we are the rendezvous node of."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tracked: dict[Digest, _Tracked] = {}

    def __len__(self) -> int:
        return len(self._tracked)

    def on_register(self, message: Register) -> None:
        """Somebody takes part. Raises: BadPacket if its pieces are not the blob's."""
        now = self._context.now
        pieces = cut(message.size_bytes)
        participant = Participant(
            message.sender,
            now,
            unpack_bits_untrusted(message.held, pieces),
            unpack_bits_untrusted(message.fetching, pieces),
            unpack_bits_untrusted(message.starved, pieces),
            willing=message.willing,
            able=message.able,
            number=message.number,
        )
        tracked = self._tracked.get(message.digest)
        if tracked is None:
            if len(self._tracked) >= TRACKED_MAX:
                raise BadPacket("too many blobs have us as their rendezvous node")
            leases = Leases(pieces, self._context.config, self._context.random, now)
            tracked = self._tracked[message.digest] = _Tracked(message.size_bytes, leases, [])
            self._context.set_timer("rendezvous", message.digest, CHECK_S)
        if message.size_bytes != tracked.size_bytes:
            raise BadPacket("another size than others say")
        leases = tracked.leases
        known = message.sender in leases.participants
        if len(leases.participants) >= PARTICIPANTS_MAX and not known:
            raise BadPacket("too many participants")
        if leases.is_old(message.sender, message.number):
            return
        for lease in leases.running.values():
            if lease.holder == message.sender:
                participant.fetching &= ~lease.pieces
        if leases.register(participant):
            tracked.order.append(message.sender)
        for seed in message.seeds:
            if self._context.trusts(seed) or seed == self._context.own:
                leases.seeds[seed] = now
        self._context.send(message.sender, self._answer(message, tracked, participant))
        self._grant(message.digest, tracked)

    def on_leave(self, message: Leave) -> None:
        """Somebody no longer takes part."""
        tracked = self._tracked.get(message.digest)
        if tracked is not None:
            self._remove(tracked, message.sender)
            self._grant(message.digest, tracked)

    def on_report(self, message: LeaseReport) -> None:
        """A lease's holder tells how far it is."""
        tracked = self._tracked.get(message.digest)
        lease = None
        if tracked is not None:
            lease = tracked.leases.report(
                message.lease, message.sender, message.bytes_done, self._context.now
            )
        if lease is None or tracked is None:
            self._close(message.sender, message.digest, message.lease)
            return
        if message.state == LeaseState.RUNNING:
            return
        participant = tracked.leases.participants.get(message.sender)
        if message.state == LeaseState.DONE:
            tracked.leases.done(lease, self._context.now)
        else:
            tracked.leases.failed(lease)
            if participant is not None:  # until it says otherwise
                participant.willing = False
                participant.able = message.state != LeaseState.REFUSED
        self._close(message.sender, message.digest, message.lease)
        self._grant(message.digest, tracked)

    def on_timer(self, digest: object) -> None:
        """Look after one blob: who fell silent, which leases must be given on."""
        assert isinstance(digest, bytes)
        tracked = self._tracked.get(Digest(digest))
        if tracked is None:
            return
        context, leases = self._context, tracked.leases
        patience_s = SILENT_INTERVALS * register_interval_s(context.config, len(tracked.order))
        for participant in list(leases.participants.values()):
            # Whoever has the blob whole need not register; it is gone when it is no member.
            whole = participant.held == leases.pieces.all
            limit_s = context.config.linger_s if whole else patience_s
            if context.now - participant.heard_at > limit_s:
                self._remove(tracked, participant.node)
        for seed, heard_at in list(leases.seeds.items()):
            if context.now - heard_at > patience_s:
                del leases.seeds[seed]
        if not leases.participants:
            del self._tracked[Digest(digest)]
            context.forget_ranking(Digest(digest))
            return
        for lease in leases.overdue(context.now):
            context.counters["leases_given_on"] += 1
            leases.failed(lease)
            holder = leases.participants.get(lease.holder)
            if holder is not None:
                holder.willing = False  # until it registers again
            self._close(lease.holder, Digest(digest), lease.number)
        for lease in leases.running.values():
            if lease.reported_at is None and context.now - lease.granted_at > (
                GRANT_AGAIN_S * lease.grants_sent
            ):
                lease.grants_sent += 1
                self._send_grant(Digest(digest), lease)
        leases.adapt(context.now)
        self._grant(Digest(digest), tracked)
        context.set_timer("rendezvous", digest, CHECK_S)

    def members_gone(self) -> None:
        """Some members are offline: what they had and fetched is open again."""
        for digest, tracked in list(self._tracked.items()):
            for node in list(tracked.leases.participants):
                if node != self._context.own and node not in self._context.members:
                    self._remove(tracked, node)
            for seed in list(tracked.leases.seeds):
                if seed != self._context.own and seed not in self._context.members:
                    del tracked.leases.seeds[seed]
            self._grant(digest, tracked)

    def _answer(
        self, message: Register, tracked: _Tracked, participant: Participant
    ) -> Participants:
        leases, wanted = tracked.leases, min(message.neighbours_wanted, NEIGHBOURS_MAX)
        order = tracked.order
        chosen: list[NodeId] = []
        if wanted:
            for node in self._context.random.sample(order, min(len(order), wanted + 1)):
                if node != message.sender and len(chosen) < wanted:
                    chosen.append(node)
            if participant.starved:
                holders = [n for n in leases.holders(participant.starved) if n not in chosen]
                chosen[:2] = self._context.random.sample(holders, min(2, len(holders)))
        return Participants(
            self._context.own,
            message.digest,
            message.number,
            len(leases.participants),
            leases.wanting(),
            bool(leases.running),
            leases.hopeful(),
            tuple(chosen),
            tuple(seed for seed in leases.seeds if seed != message.sender)[:SEEDS_MAX],
        )

    def _grant(self, digest: Digest, tracked: _Tracked) -> None:
        leases = tracked.leases
        for lease in leases.grant(self._context.now, self._context.distrusted):
            self._context.counters["leases_granted"] += 1
            self._send_grant(digest, lease)
        leasable = leases.wanting()
        if leasable != leases.leasable:
            leases.leasable = leasable
            news = Participants(
                self._context.own,
                digest,
                0,
                len(leases.participants),
                leasable,
                bool(leases.running),
                leases.hopeful(),
            )
            for node in leases.participants:
                self._context.send(node, news)

    def _send_grant(self, digest: Digest, lease: Lease) -> None:
        self._context.send(
            lease.holder, Grant(self._context.own, digest, lease.number, lease.first, lease.count)
        )

    def _close(self, node: NodeId, digest: Digest, lease: int) -> None:
        self._context.send(node, LeaseAnswer(self._context.own, digest, lease))

    def _remove(self, tracked: _Tracked, node: NodeId) -> None:
        if node in tracked.leases.participants:
            tracked.order.remove(node)
        tracked.leases.remove(node)
