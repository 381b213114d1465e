"""Our part as the rendezvous node of blobs: who takes part is told here, and leases are given.

Any node can be one, also for a blob that it does not want itself. It is asked again and again by
those who take part, so nothing that it knows is precious: the next one learns it within a moment.

Who says that a blob has another size is in another *crowd*, for its pieces are others. A wrong size
never verifies, so one who lies or errs about it fails alone.
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
from beiran.swarm.rendezvous.leases import Lease, Leases, Participant

CHECK_S: Final = 0.1
SILENT_INTERVALS: Final = 4  # a participant that misses so many registrations is gone
GRANT_AGAIN_S: Final = 0.15
CROWD: Final = 400  # above, participants register less often: the rendezvous node has one CPU


Key = tuple[Digest, int]
"""A blob, and how many bytes it has."""


class _Crowd(Struct):
    leases: Leases
    order: list[NodeId]


def register_interval_s(config: SwarmConfig, count: int) -> float:
    """How often each of ``count`` participants registers, in seconds."""
    return config.register_interval_s * max(1.0, count / CROWD)


class Rendezvous:
    """All blobs that we are the rendezvous node of."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._crowds: dict[Key, _Crowd] = {}
        self._sizes: dict[Digest, list[int]] = {}

    def __len__(self) -> int:
        return len(self._crowds)

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
        key = (message.digest, message.size_bytes)
        crowd = self._crowd(key)
        leases = crowd.leases
        known = message.sender in leases.participants
        if len(leases.participants) >= PARTICIPANTS_MAX and not known:
            raise BadPacket("too many participants")
        if leases.is_old(message.sender, message.number):
            return
        if message.sender in self._context.distrusted:
            participant.held = participant.fetching = 0
        if not known:  # one node is in one crowd of a blob
            self._remove(message.digest, message.sender)
        for lease in leases.running.values():
            if lease.holder == message.sender:
                participant.fetching &= ~lease.pieces
        if leases.register(participant):
            crowd.order.append(message.sender)
        for seed in message.seeds:
            if self._context.trusts(seed) or seed == self._context.own:
                leases.seeds[seed] = now
        self._context.send(message.sender, self._answer(message, crowd, participant))
        self._grant(message.digest, crowd)

    def on_leave(self, message: Leave) -> None:
        """Somebody no longer takes part."""
        self._remove(message.digest, message.sender)

    def on_report(self, message: LeaseReport) -> None:
        """A lease's holder tells how far it is."""
        crowd = self._crowd_of(message.digest, message.sender)
        lease = None
        if crowd is not None:
            lease = crowd.leases.report(
                message.lease,
                message.sender,
                message.bytes_done,
                self._context.now,
                held_back=message.held_back,
            )
        if lease is None or crowd is None:
            self._close(message.sender, message.digest, message.lease)
            return
        if message.state == LeaseState.RUNNING:
            return
        participant = crowd.leases.participants.get(message.sender)
        if message.state == LeaseState.DONE:
            crowd.leases.done(lease, self._context.now)
        else:
            crowd.leases.failed(lease)
            if participant is not None:  # until it says otherwise
                participant.willing = False
                participant.able = message.state != LeaseState.REFUSED
        self._close(message.sender, message.digest, message.lease)
        self._grant(message.digest, crowd)

    def on_timer(self, key: object) -> None:
        """Look after one crowd: who fell silent, which leases must be given on."""
        crowd = self._crowds.get(key)  # type: ignore[call-overload]
        if crowd is None:
            return
        assert isinstance(key, tuple)
        digest = key[0]
        context, leases = self._context, crowd.leases
        patience_s = SILENT_INTERVALS * register_interval_s(context.config, len(crowd.order))
        for participant in list(leases.participants.values()):
            # Whoever has the blob whole need not register; it is gone when it is no member.
            whole = participant.held == leases.pieces.all
            limit_s = context.config.linger_s if whole else patience_s
            if context.now - participant.heard_at > limit_s:
                self._remove(digest, participant.node)
        for seed, heard_at in list(leases.seeds.items()):
            if context.now - heard_at > patience_s:
                del leases.seeds[seed]
        if not leases.participants:
            return
        for lease in leases.overdue(context.now):
            context.counters["leases_given_on"] += 1
            leases.failed(lease)
            holder = leases.participants.get(lease.holder)
            if holder is not None:
                holder.willing = False  # until it registers again
            self._close(lease.holder, digest, lease.number)
        for lease in leases.running.values():
            if lease.reported_at is None and context.now - lease.granted_at > (
                GRANT_AGAIN_S * lease.grants_sent
            ):
                lease.grants_sent += 1
                self._send_grant(digest, lease)
        leases.adapt(context.now)
        self._grant(digest, crowd)
        context.set_timer("rendezvous", key, CHECK_S)

    def disregard(self, node: NodeId) -> None:
        """A node lied: it takes part, but nothing that it has counts."""
        for (digest, _), crowd in list(self._crowds.items()):
            crowd.leases.disregard(node)
            self._grant(digest, crowd)

    def members_gone(self) -> None:
        """Some members are offline: what they had and fetched is open again."""
        for (digest, _), crowd in list(self._crowds.items()):
            for node in list(crowd.leases.participants):
                if node != self._context.own and node not in self._context.members:
                    self._remove(digest, node)
            for seed in list(crowd.leases.seeds):
                if seed != self._context.own and seed not in self._context.members:
                    del crowd.leases.seeds[seed]
            self._grant(digest, crowd)

    def _answer(self, message: Register, crowd: _Crowd, participant: Participant) -> Participants:
        leases, wanted = crowd.leases, min(message.neighbours_wanted, NEIGHBOURS_MAX)
        order = crowd.order
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

    def _grant(self, digest: Digest, crowd: _Crowd) -> None:
        leases = crowd.leases
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

    # --- crowds -----------------------------------------------------------------------------

    def _crowd(self, key: Key) -> _Crowd:
        """The crowd, a new one if need be. Raises: BadPacket if there are too many."""
        crowd = self._crowds.get(key)
        if crowd is None:
            if len(self._crowds) >= TRACKED_MAX:
                raise BadPacket("too many blobs have us as their rendezvous node")
            context, digest = self._context, key[0]
            leases = Leases(cut(key[1]), context.config, context.random, context.now)
            crowd = self._crowds[key] = _Crowd(leases, [])
            self._sizes.setdefault(digest, []).append(key[1])
            context.set_timer("rendezvous", key, CHECK_S)
        return crowd

    def _crowd_of(self, digest: Digest, node: NodeId) -> _Crowd | None:
        """The crowd of a blob in which a node takes part."""
        for size_bytes in self._sizes.get(digest, ()):
            crowd = self._crowds[digest, size_bytes]
            if node in crowd.leases.participants:
                return crowd
        return None

    def _remove(self, digest: Digest, node: NodeId) -> None:
        """A node is no longer in a crowd of a blob, and the crowd ends with its last."""
        for size_bytes in list(self._sizes.get(digest, ())):
            crowd = self._crowds[digest, size_bytes]
            known = node in crowd.leases.participants
            crowd.leases.remove(node)
            if not known:
                continue
            crowd.order.remove(node)
            if crowd.leases.participants:
                self._grant(digest, crowd)
            else:
                self._end(digest, size_bytes)

    def _end(self, digest: Digest, size_bytes: int) -> None:
        del self._crowds[digest, size_bytes]
        self._sizes[digest].remove(size_bytes)
        if not self._sizes[digest]:
            del self._sizes[digest]
            self._context.forget_ranking(digest)
        self._context.cancel_timer("rendezvous", (digest, size_bytes))
