"""This node as a rendezvous node: the directory of participants of each blob, and its leases.

Any node can be one, also for a blob that it does not want itself. Participants register every 0.5 s
with all that the directory needs, so nothing in it is precious: the next rendezvous node knows the
same within a moment.

Participants that say a blob has different sizes are in different *swarms*, as its pieces differ. A
wrong size never verifies, so a node that errs about it fails alone.
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
from beiran.swarm.context import Context, DirectoryDue, SwarmKey
from beiran.swarm.counters import Count
from beiran.swarm.integrity.bans import BanList
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

CHECK_S: Final = 0.1  # an eighth of ``lease_stalled_s``
SILENT_INTERVALS: Final = 4
"""A participant that misses this many registrations is gone: 2 s, less than gossip takes."""
GRANT_RETRY_S: Final = 0.15  # as ``register_retry_s``: the same round trip
REGISTER_SLOWER_FROM: Final = 400
"""With more participants each registers less often: at most 800 registrations a second.
Chosen, as the rendezvous node has one core for them."""
LACKING_NAMED: Final = 2  # holders of pieces that a participant lacks, of those that it is named


class _Swarm(Struct):
    """The participants of one blob. ``order``: in the order in which they came, to draw from."""

    leases: Leases
    order: list[NodeId]


def register_interval_s(config: SwarmConfig, participants: int) -> float:
    """The seconds between two registrations of each of ``participants`` nodes."""
    return config.register_interval_s * max(1.0, participants / REGISTER_SLOWER_FROM)


class Directory:
    """All blobs that this node is the rendezvous node of."""

    def __init__(self, context: Context, bans: BanList) -> None:
        self._context = context
        self._bans = bans
        self._swarms: dict[SwarmKey, _Swarm] = {}
        self._sizes: dict[Digest, list[int]] = {}

    def __len__(self) -> int:
        return len(self._swarms)

    # --- messages ---------------------------------------------------------------------------

    def on_register(self, message: Register) -> None:
        """A node takes part. Raises: BadPacket if its pieces are not the blob's."""
        now = self._context.now
        pieces = cut(message.size_bytes)
        participant = Participant(
            message.sender,
            now,
            unpack_bits_untrusted(message.held, pieces),
            unpack_bits_untrusted(message.fetching, pieces),
            unpack_bits_untrusted(message.lacking, pieces),
            can_lease=message.can_lease,
            origin_possible=message.origin_possible,
            number=message.number,
        )
        swarm = self._swarm((message.digest, message.size_bytes))
        leases = swarm.leases
        known = message.sender in leases.participants
        if len(leases.participants) >= PARTICIPANTS_MAX and not known:
            raise BadPacket("too many participants")
        if leases.is_outdated(message.sender, message.number):
            return
        if message.sender in self._bans.reasons:
            participant.held = participant.fetching = 0
        if not known:  # a node is in one swarm of a blob
            self._remove(message.digest, message.sender)
        if leases.register(participant):
            swarm.order.append(message.sender)
        for seed in message.seeds:
            if self._bans.trusts(seed) or seed == self._context.own:
                leases.note_seed(seed, now)
        self._context.send(message.sender, self._answer(message, swarm, participant))
        self._grant(message.digest, swarm)

    def on_leave(self, message: Leave) -> None:
        """A node takes part no longer."""
        self._remove(message.digest, message.sender)

    def on_report(self, message: LeaseReport) -> None:
        """A leaseholder reports how far it is."""
        sender, digest, state = message.sender, message.digest, message.state
        swarm = self._swarm_of(digest, sender)
        lease = None
        if swarm is not None:
            lease = swarm.leases.report(
                message.lease,
                sender,
                message.bytes_done,
                self._context.now,
                throttled=message.throttled,
            )
        if lease is None or swarm is None:
            self._end_lease(sender, digest, message.lease)
            return
        if state == LeaseState.RUNNING:
            return
        if state == LeaseState.DONE:
            swarm.leases.done(lease, self._context.now)
        else:
            swarm.leases.failed(lease, refused=state == LeaseState.REFUSED)
        self._end_lease(sender, digest, message.lease)
        self._grant(digest, swarm)

    # --- time and members -------------------------------------------------------------------

    def on_timer(self, key: SwarmKey) -> None:
        """Look after one swarm: which participants fell silent, which leases are overdue."""
        swarm = self._swarms.get(key)
        if swarm is None:
            return
        context, leases, digest = self._context, swarm.leases, key[0]
        self._remove_silent(digest, swarm)
        if not leases.participants:
            return
        for lease in leases.overdue(context.now):
            context.count(Count.LEASES_GIVEN_ON)
            leases.failed(lease)
            self._end_lease(lease.holder, digest, lease.number)
        for lease in leases.to_grant_again(context.now, GRANT_RETRY_S):
            self._send_grant(digest, lease)
        leases.adapt(context.now)
        self._grant(digest, swarm)
        context.set_timer(DirectoryDue(key), CHECK_S)

    def disregard(self, node: NodeId) -> None:
        """A participant is banned: it takes part, but what it says it has counts for nothing."""
        for (digest, _), swarm in list(self._swarms.items()):
            swarm.leases.disregard(node)
            self._grant(digest, swarm)

    def members_gone(self) -> None:
        """Members went offline: what they had and fetched is open again."""
        reaches = self._context.reaches
        for (digest, _), swarm in list(self._swarms.items()):
            for node in [n for n in swarm.leases.participants if not reaches(n)]:
                self._remove(digest, node)
            for seed in [n for n in swarm.leases.seeds if not reaches(n)]:
                swarm.leases.forget_seed(seed)
            self._grant(digest, swarm)

    def _remove_silent(self, digest: Digest, swarm: _Swarm) -> None:
        config, now, leases = self._context.config, self._context.now, swarm.leases
        patience_s = SILENT_INTERVALS * register_interval_s(config, len(swarm.order))
        for participant in list(leases.participants.values()):
            # A seed registers every 20 s only. It is removed when it is no member any more.
            whole = participant.held == leases.pieces.all
            limit_s = config.linger_s if whole else patience_s
            if now - participant.heard_at > limit_s:
                self._remove(digest, participant.node)
        for seed in [n for n, at in leases.seeds.items() if now - at > patience_s]:
            leases.forget_seed(seed)

    # --- answers and grants -----------------------------------------------------------------

    def _answer(self, message: Register, swarm: _Swarm, participant: Participant) -> Participants:
        leases, sample = swarm.leases, self._context.random.sample
        wanted = min(message.neighbours_wanted, NEIGHBOURS_MAX)
        chosen: list[NodeId] = []
        if wanted:
            drawn = sample(swarm.order, min(len(swarm.order), wanted + 1))
            chosen = [node for node in drawn if node != message.sender][:wanted]
            if participant.lacking:
                holders = [n for n in leases.holders(participant.lacking) if n not in chosen]
                chosen[:LACKING_NAMED] = sample(holders, min(LACKING_NAMED, len(holders)))
        seeds = [seed for seed in leases.seeds if seed != message.sender][:SEEDS_MAX]
        return self._participants(message.digest, leases, message.number, chosen, seeds)

    def _grant(self, digest: Digest, swarm: _Swarm) -> None:
        """Lease what is open, and tell all participants when ``leasable`` changes."""
        leases = swarm.leases
        for lease in leases.grant(self._context.now, self._bans.reasons):
            self._context.count(Count.LEASES_GRANTED)
            self._send_grant(digest, lease)
        leasable = leases.leasable()
        if leasable != leases.announced_leasable:
            leases.announced_leasable = leasable
            news = self._participants(digest, leases, 0)
            for node in leases.participants:
                self._context.send(node, news)

    def _participants(
        self,
        digest: Digest,
        leases: Leases,
        number: int,
        neighbours: list[NodeId] | None = None,
        seeds: list[NodeId] | None = None,
    ) -> Participants:
        return Participants(
            self._context.own,
            digest,
            number,
            len(leases.participants),
            leases.leasable(),
            bool(leases.running),
            leases.origin_possible(),
            tuple(neighbours or ()),
            tuple(seeds or ()),
        )

    def _send_grant(self, digest: Digest, lease: Lease) -> None:
        grant = Grant(self._context.own, digest, lease.number, lease.first, lease.count)
        self._context.send(lease.holder, grant)

    def _end_lease(self, node: NodeId, digest: Digest, lease: int) -> None:
        self._context.send(node, LeaseAnswer(self._context.own, digest, lease))

    # --- swarms -----------------------------------------------------------------------------

    def _swarm(self, key: SwarmKey) -> _Swarm:
        """The swarm, a new one if there is none. Raises: BadPacket if there are too many."""
        swarm = self._swarms.get(key)
        if swarm is None:
            if len(self._swarms) >= TRACKED_MAX:
                raise BadPacket("too many blobs have this node as their rendezvous node")
            context, (digest, size_bytes) = self._context, key
            leases = Leases(cut(size_bytes), context.config, context.random, context.now)
            swarm = self._swarms[key] = _Swarm(leases, [])
            self._sizes.setdefault(digest, []).append(size_bytes)
            context.set_timer(DirectoryDue(key), CHECK_S)
        return swarm

    def _swarm_of(self, digest: Digest, node: NodeId) -> _Swarm | None:
        """The swarm of a blob in which a node takes part."""
        for size_bytes in self._sizes.get(digest, ()):
            swarm = self._swarms[digest, size_bytes]
            if node in swarm.leases.participants:
                return swarm
        return None

    def _remove(self, digest: Digest, node: NodeId) -> None:
        """Remove a node from the swarms of a blob. A swarm ends with its last participant."""
        for size_bytes in list(self._sizes.get(digest, ())):
            key = (digest, size_bytes)
            swarm = self._swarms[key]
            known = node in swarm.leases.participants
            swarm.leases.remove(node)
            if not known:
                continue
            swarm.order.remove(node)
            if swarm.leases.participants:
                self._grant(digest, swarm)
            else:
                del self._swarms[key]
                self._sizes[digest].remove(size_bytes)
                if not self._sizes[digest]:
                    del self._sizes[digest]
                self._context.cancel_timer(DirectoryDue(key))
