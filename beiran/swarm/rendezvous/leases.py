"""Leases of one blob: which participant fetches which pieces from the origin.

Aim: the origin sends each byte once, and its link is full until it has. The bound of Kumar and Ross
(2006) on the time in which N hosts get F bytes, max(F/u_origin, F/min d, N F/(u_origin + sum u)),
is then reached by peers among themselves. (kraken has one origin cluster seed each blob instead;
leases need no such server, and an origin that knows nothing of peers.)

A piece is *available* if a participant or a seed has it, *leased* if a participant fetches it from
the origin under a lease, and *open* otherwise. Each open piece is leased to one participant.

How many leases run at once? With few, the first pieces are out soon, as few share the origin's
link; with many, the link is full even if the holders' links are slow. The best number depends on
both, so it is tried: half as many again, kept if the origin then gave ``TRIAL_WORTH`` more
(``adapt``).

A lease is granted to another participant when its holder is silent, stalls, or needs much longer
than a new holder would (``overdue``). Not when all are slow: then it is the origin, and granting
leases anew would throw their bytes away.

This module keeps books and sends nothing; ``directory`` calls it. Only this module writes
``Participant`` and ``Lease``.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from beiran.ids import NodeId
from beiran.sansio.rate import Rate
from beiran.swarm.config import LEASE_PIECES_MAX, SwarmConfig
from beiran.swarm.pieces import Pieces

if TYPE_CHECKING:
    from random import Random

ON_THE_WAY_S: Final = 1.0
"""A registration is at most this old when it arrives: LAN delays, and the wait for a busy agent."""
REORDERED_MAX: Final = 64
"""A registration with a number up to this much lower is an older one; a lower number than that is
of a restarted node. A node sends seven a second at most."""
TAKEOVER_S: Final = 0.25
"""A new rendezvous node listens for this time before it leases, if the first registration shows
that the blob is under way: half a registration interval, in which half of the others register."""
LACKING_TIMES: Final = 3
"""A piece that some participant has, and that another lacks in this many registrations in a row
(1.5 s), is leased again: its holders do not hand it out."""
UNPRODUCTIVE_MAX: Final = 2
"""If more holders than this seem to hand nothing out, the participant's own link is at fault."""
TRIAL_S: Final = 1.0
"""A trial of more leases, and the time before it: two windows of the rate that is compared."""
TRIAL_PAUSE_S: Final = 3.0  # after a trial without success
TRIAL_WORTH: Final = 0.2
"""Half as many leases again must bring this much more. A full link brings nothing more, an idle one
half as much again; 20 % lies between, above what the rate of a second varies by. Chosen."""
THROTTLED_S: Final = 10.0
"""A participant that reported a rate limit of its own is not counted on for this time: bursts of a
token bucket come and go within seconds."""
PIECE_TIME_NEW: Final = 0.3
"""Weight of a lease that ends in the typical time of a piece: an average over the last three."""
RUNS_PER_PARTICIPANT: Final = 4
"""A lease is at most a fraction 1/(4 N) of the open pieces, so that each of N participants gets
four or so, and a slow one delays little. Chosen: longer ones save requests."""
SLOW_PENALTY: Final = 2
"""The typical time is multiplied by this when a lease is taken for slowness, as an origin that
became slow for all would otherwise have every lease taken, again and again: one that fell to 0.8
Mbit/s never finished an image (docs/explanation/simulations.md)."""


class Participant(Struct):
    """A node that takes part. ``held`` to ``origin_possible`` as it last registered.

    Attributes:
      lacking_long: pieces that it lacked in ``lacking_times`` registrations in a row.
      leases: that it holds now. ``granted``: in all.
      unproductive: others could not fetch from it what it had.
      number: of its last registration.
      brought: pieces of its leases that ended at ``brought_at``; a registration that was on the
        way then does not have them yet.
      throttled_at: when it last reported that a rate limit of its own makes a lease wait.
    """

    node: NodeId
    heard_at: float
    held: int = 0
    fetching: int = 0
    lacking: int = 0
    can_lease: bool = False
    origin_possible: bool = False
    number: int = 0
    lacking_long: int = 0
    lacking_times: int = 0
    leases: int = 0
    granted: int = 0
    unproductive: bool = False
    brought: int = 0
    brought_at: float = 0.0
    throttled_at: float = float("-inf")

    def is_throttled(self, now: float) -> bool:
        """Whether a rate limit of its own stopped it of late."""
        return now - self.throttled_at < THROTTLED_S


class Lease(Struct):
    """Pieces that one participant fetches from the origin.

    Attributes:
      throttled_at: since when a rate limit of its holder makes it wait.
      paused_s: how long it waited for that in all.
      grants_sent: the ``Grant`` is repeated until the holder reports.
    """

    number: int
    holder: NodeId
    first: int
    count: int
    size_bytes: int
    granted_at: float
    reported_at: float | None = None
    moved_at: float | None = None
    bytes_done: int = 0
    grants_sent: int = 1
    throttled_at: float | None = None
    paused_s: float = 0.0

    def age_s(self, now: float) -> float:
        """How long it has run, without the pauses that rate limits caused."""
        return now - self.granted_at - self.paused_s

    @property
    def pieces(self) -> int:
        """The set of its pieces."""
        return ((1 << self.count) - 1) << self.first


class Leases:
    """The participants and leases of one blob.

    Attributes:
      running: the leases that run, by number.
      seeds: nodes that have the whole blob by participants' word, and when that was last said.
      announced_leasable: what participants last learned of ``leasable``.
    """

    def __init__(self, pieces: Pieces, config: SwarmConfig, random: "Random", now: float) -> None:
        self.pieces: Final = pieces
        self.participants: Final[dict[NodeId, Participant]] = {}
        self.running: Final[dict[int, Lease]] = {}
        self.seeds: Final[dict[NodeId, float]] = {}
        self.announced_leasable = True
        self._config = config
        self._random = random
        self._not_before = now
        self._at_once = config.leases_start
        self._available = 0
        self._number = random.getrandbits(31)
        self._rate = Rate()
        self._piece_s: float | None = None
        self._trial_from: tuple[int, float] | None = None
        self._trial_at = now + TRIAL_S

    # --- participants -----------------------------------------------------------------------

    def register(self, participant: Participant) -> bool:
        """A node takes part, or registers again. Returns whether it is new."""
        for lease in self.running.values():
            if lease.holder == participant.node:
                participant.fetching &= ~lease.pieces
        old = self.participants.get(participant.node)
        if old is None:
            if not self.participants and (participant.held or participant.fetching):
                self._not_before = participant.heard_at + TAKEOVER_S  # others will register, too
        else:
            self._carry_over(old, participant)
        lost = old is not None and old.held & ~participant.held
        self.participants[participant.node] = participant
        self._available |= participant.held
        if lost:
            self._recount()
        return old is None

    def _carry_over(self, old: Participant, new: Participant) -> None:
        """Keep what a registration does not say."""
        new.leases, new.granted = old.leases, old.granted
        new.unproductive = old.unproductive
        new.throttled_at = old.throttled_at
        if new.heard_at - old.brought_at < ON_THE_WAY_S:
            new.brought, new.brought_at = old.brought, old.brought_at
            new.held |= old.brought
        lasting = old.lacking_long & new.lacking if old.lacking_times else new.lacking
        new.lacking_long = lasting & self.available
        if new.lacking_long:
            new.lacking_times = old.lacking_times + 1

    def is_outdated(self, node: NodeId, number: int) -> bool:
        """Whether a registration arrives after a later one."""
        known = self.participants.get(node)
        return known is not None and 0 < (known.number - number) % 2**32 <= REORDERED_MAX

    def note_seed(self, node: NodeId, now: float) -> None:
        """A participant says that a node has the whole blob."""
        self.seeds[node] = now

    def forget_seed(self, node: NodeId) -> None:
        """A node was not named as a seed for long, or is gone."""
        self.seeds.pop(node, None)

    def remove(self, node: NodeId) -> None:
        """A participant is gone, with what it had and fetched."""
        self.seeds.pop(node, None)
        if self.participants.pop(node, None) is not None:
            for lease in [each for each in self.running.values() if each.holder == node]:
                del self.running[lease.number]
            self._recount()

    def disregard(self, node: NodeId) -> None:
        """A participant is banned: what it says counts for nothing, and its leases are open."""
        participant = self.participants.get(node)
        self.seeds.pop(node, None)
        if participant is None:
            return
        participant.held = participant.fetching = participant.brought = 0
        for lease in [each for each in self.running.values() if each.holder == node]:
            self._end(lease)
        self._recount()

    def holders(self, pieces: int) -> list[NodeId]:
        """Participants that have any of these pieces."""
        return [p.node for p in self.participants.values() if p.held & pieces]

    def origin_possible(self) -> bool:
        """Whether a participant may yet fetch from the origin."""
        return any(p.origin_possible for p in self.participants.values())

    # --- pieces -----------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """Pieces that a participant or seed has."""
        return self.pieces.all if self.seeds else self._available

    def open(self) -> int:
        """Pieces that no node has and no node fetches from the origin."""
        taken = self.available | self._leased()
        for participant in self.participants.values():
            taken |= participant.fetching
        return self.pieces.all & ~taken

    def leasable(self) -> bool:
        """Whether pieces are still to be leased. If not, participants may turn to the next blob.

        That is so a moment before the last lease is done, so that the origin's link never idles.
        """
        return bool(self.open())

    # --- leases -----------------------------------------------------------------------------

    def grant(self, now: float, banned: Collection[NodeId]) -> list[Lease]:
        """Lease open pieces while there is room. ``banned`` nodes get none."""
        if now < self._not_before:
            return []
        open_ = self.open()
        able = [p for p in self.participants.values() if p.can_lease and p.node not in banned]
        granted = [*self._grant_again(able, now)]
        if not open_ or not able:
            return granted
        # Until the first lease is done no piece can be passed on: let few share the link.
        room = self._at_once if self._piece_s else min(self._at_once, self._config.leases_first)
        each_max = 1 if len(able) >= room else -(-room // len(able))
        productive = [p for p in able if not p.unproductive] or able
        candidates = [p for p in productive if p.leases < each_max]
        self._random.shuffle(candidates)
        # The best one last: not throttled, with the fewest leases, then with the fewest pieces.
        candidates.sort(
            key=lambda p: (p.is_throttled(now), p.leases, p.held.bit_count()), reverse=True
        )
        run_max = len(self.participants) * RUNS_PER_PARTICIPANT
        while open_ and candidates and len(self.running) < room:
            participant = candidates.pop()
            # One piece at first, as a crowd may be about to register; then twice as many as in
            # all leases before.
            length = min(LEASE_PIECES_MAX, open_.bit_count() // run_max, 2 * participant.granted)
            lease = self._lease(participant, open_, max(1, length), now)
            open_ &= ~lease.pieces
            granted.append(lease)
        return granted

    def _grant_again(self, able: list[Participant], now: float) -> list[Lease]:
        """Lease pieces that others have and do not hand out, to participants that lack them."""
        granted = []
        for participant in able:
            if participant.lacking_times >= LACKING_TIMES and not participant.leases:
                again = participant.lacking_long & ~self._leased()
                if again:
                    self._note_unproductive(again, but=participant.node)
                    granted.append(self._lease(participant, again, LEASE_PIECES_MAX, now))
        return granted

    def report(
        self, number: int, node: NodeId, bytes_done: int, now: float, *, throttled: bool = False
    ) -> Lease | None:
        """A holder reports. Returns the lease, or None if the node holds none of this number."""
        lease = self.running.get(number)
        if lease is None or lease.holder != node:
            return None
        if throttled:
            self._note_throttled(lease, now)
        else:
            lease.throttled_at = None
        lease.reported_at = now
        more = min(bytes_done, lease.size_bytes) - lease.bytes_done
        if more > 0:
            lease.bytes_done += more
            lease.moved_at = now
            lease.throttled_at = now if throttled else None
            self._rate.add(more, now)
        return lease

    def done(self, lease: Lease, now: float) -> None:
        """A lease's pieces have come."""
        self._end(lease)
        holder = self.participants.get(lease.holder)
        if holder is not None:
            if now - holder.brought_at >= ON_THE_WAY_S:
                holder.brought = 0
            holder.brought |= lease.pieces
            holder.brought_at = now
            holder.held |= lease.pieces
            holder.fetching &= ~lease.pieces
            holder.lacking_long &= ~lease.pieces
            self._available |= lease.pieces
        took_s = lease.age_s(now) / lease.count
        if self._piece_s is None:
            self._piece_s = took_s
        else:
            self._piece_s = (1 - PIECE_TIME_NEW) * self._piece_s + PIECE_TIME_NEW * took_s

    def failed(self, lease: Lease, *, refused: bool | None = None) -> None:
        """A lease is over before its pieces came: they are open again.

        Args:
          refused: its holder reported so: whether the origin denies it the blob. None: the lease
            was taken from it. Either way it gets no lease until it registers again.
        """
        self._end(lease)
        holder = self.participants.get(lease.holder)
        if holder is not None:
            holder.fetching &= ~lease.pieces
            holder.can_lease = False
            if refused is not None:
                holder.origin_possible = not refused

    def to_grant_again(self, now: float, interval_s: float) -> list[Lease]:
        """Leases whose ``Grant`` may be lost: no report came within ``interval_s`` of the last."""
        silent = []
        for lease in self.running.values():
            waited_s = now - lease.granted_at
            if lease.reported_at is None and waited_s > interval_s * lease.grants_sent:
                lease.grants_sent += 1
                silent.append(lease)
        return silent

    def overdue(self, now: float) -> list[Lease]:
        """Leases that another participant should have: silent, stalled, or much too slow."""
        late: list[Lease] = []
        slow = False
        for lease in self.running.values():
            heard_at = lease.reported_at or lease.granted_at
            silent = now - heard_at > self._config.lease_stalled_s
            if lease.moved_at is None:
                stalled = lease.age_s(now) > self._config.lease_first_byte_s
            else:
                stalled = now - lease.moved_at > self._config.lease_stalled_s
            if lease.throttled_at is not None and not silent:
                waited_s = now - lease.throttled_at
                if waited_s > self._config.lease_stalled_s and self._is_another_free(lease, now):
                    late.append(lease)
            elif silent or stalled:
                late.append(lease)
            elif self._too_slow(lease, now):
                late.append(lease)
                slow = True
        if slow and self._piece_s is not None:
            self._piece_s *= SLOW_PENALTY
        return late

    def adapt(self, now: float) -> None:
        """Try whether more leases at a time make the origin give more."""
        if now < self._trial_at or not self.running:
            return
        rate = self._rate.bytes_per_s
        if self._trial_from is None:
            full = len(self.running) >= self._at_once and self._piece_s is not None
            more = min(self._at_once + max(1, self._at_once // 2), self._config.leases_max)
            if full and more > self._at_once and len(self.participants) > self._at_once:
                self._trial_from = (self._at_once, rate)
                self._at_once = more
            self._trial_at = now + TRIAL_S
            return
        before, rate_before = self._trial_from
        self._trial_from = None
        if rate < rate_before * (1 + TRIAL_WORTH):
            self._at_once = before
            self._trial_at = now + TRIAL_PAUSE_S
        else:
            self._trial_at = now + TRIAL_S

    def _note_unproductive(self, pieces: int, *, but: NodeId) -> None:
        """Holders do not hand these pieces out: prefer others for leases from now on."""
        holders = [p for p in self.participants.values() if p.held & pieces and p.node != but]
        if len(holders) <= UNPRODUCTIVE_MAX:
            for holder in holders:
                holder.unproductive = True

    def _too_slow(self, lease: Lease, now: float) -> bool:
        """Whether another participant would bring a lease much sooner than its holder.

        It is compared with the leases that run beside it, and those that ended before. Where all
        are slow it is the origin, and granting leases anew would only throw bytes away.
        """
        age_s = lease.age_s(now)
        if self._piece_s is None or lease.bytes_done == 0:
            return False
        new_s = self._piece_s * lease.count
        rates = sorted(
            other.bytes_done / other.age_s(now)
            for other in self.running.values()
            if other is not lease and other.bytes_done and other.age_s(now) > 0
        )
        if rates:
            new_s = max(new_s, lease.size_bytes / rates[len(rates) // 2])
        limit_s = new_s + self._config.lease_slower_s
        if age_s < limit_s:
            return False
        left_s = age_s * (lease.size_bytes - lease.bytes_done) / lease.bytes_done
        if left_s <= limit_s:
            return False
        return any(p.can_lease and p.node != lease.holder for p in self.participants.values())

    def _note_throttled(self, lease: Lease, now: float) -> None:
        since = lease.granted_at if lease.reported_at is None else lease.reported_at
        lease.paused_s += now - since
        if lease.moved_at is not None:
            lease.moved_at += now - since
        if lease.throttled_at is None:
            lease.throttled_at = now
        holder = self.participants.get(lease.holder)
        if holder is not None:
            holder.throttled_at = now

    def _is_another_free(self, lease: Lease, now: float) -> bool:
        """Whether another participant than a lease's holder could fetch at once."""
        return any(
            p.can_lease and not p.leases and p.node != lease.holder and not p.is_throttled(now)
            for p in self.participants.values()
        )

    def _lease(self, holder: Participant, among: int, length: int, now: float) -> Lease:
        """Lease the first run of ``among``, at most ``length`` pieces."""
        first = (among & -among).bit_length() - 1
        count = 1
        while count < length and among >> (first + count) & 1:
            count += 1
        self._number = (self._number + 1) % 2**32
        size = self.pieces.end(first + count - 1) - self.pieces.start(first)
        lease = Lease(self._number, holder.node, first, count, size, now)
        self.running[lease.number] = lease
        holder.leases += 1
        holder.granted += 1
        return lease

    def _end(self, lease: Lease) -> None:
        if self.running.pop(lease.number, None) is not None:
            holder = self.participants.get(lease.holder)
            if holder is not None:
                holder.leases -= 1

    def _leased(self) -> int:
        bits = 0
        for lease in self.running.values():
            bits |= lease.pieces
        return bits

    def _recount(self) -> None:
        self._available = 0
        for participant in self.participants.values():
            self._available |= participant.held
