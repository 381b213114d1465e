"""The rendezvous node's picture of one blob: who takes part, and who fetches what from the origin.

A piece is *available* when a participant has it, *leased* when one fetches it from the origin, and
*open* otherwise. Open pieces are leased in runs, a few leases at a time: so few that the first
pieces are out soon, so many that the origin's link is full. How many that is depends on how fast
the origin and the holders' links are, so it is tried out: half as many again, and back if that
did not make it faster.
"""

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from beiran.ids import NodeId
from beiran.sansio.rate import Rate
from beiran.swarm.config import LEASE_PIECES_MAX, SwarmConfig
from beiran.swarm.pieces import Pieces

if TYPE_CHECKING:
    from random import Random

ON_THE_WAY_S: Final = 1.0  # datagrams are older than this never
REORDERED_MAX: Final = 64
TAKEOVER_S: Final = 0.25  # a new rendezvous node listens so long before it leases
STARVED_TIMES: Final = 3  # registrations in a row, before what others have is leased once more
BARREN_TOGETHER_MAX: Final = 2  # that more of them are all too slow is not likely
TRIAL_S: Final = 1.0
TRIAL_WORTH: Final = 0.2  # with half as many leases again: so much faster, or it was no use
TRIAL_PAUSE_S: Final = 3.0
HELD_BACK_S: Final = 10.0  # whom its own limit held back is not counted on for so long


class Participant(Struct):
    """One that takes part. ``held`` … ``willing`` as it last registered.

    Attributes:
      starved_long: pieces that it lacked in so many registrations in a row.
      number: of its last registration. brought: pieces of its leases that were done lately; a
        registration under way then does not have them yet.
      barren: others did not get from it what it had.
      held_back_at: when it last reported that a limit of its own makes it wait.
    """

    node: NodeId
    heard_at: float
    held: int = 0
    fetching: int = 0
    starved: int = 0
    starved_long: int = 0
    starved_times: int = 0
    willing: bool = False
    able: bool = False
    leases: int = 0
    granted: int = 0
    barren: bool = False
    number: int = 0
    brought: int = 0
    brought_at: float = 0.0
    held_back_at: float = float("-inf")


class Lease(Struct):
    """Pieces that one participant fetches from the origin.

    Attributes:
      held_back_at: its holder's own limit makes it wait, since then; as it last reported.
      paused_s: so long it waited for that in all, which is nobody's fault.
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
    held_back_at: float | None = None
    paused_s: float = 0.0

    def age_s(self, now: float) -> float:
        """How long it has been at work."""
        return now - self.granted_at - self.paused_s

    @property
    def pieces(self) -> int:
        """The set of its pieces."""
        return ((1 << self.count) - 1) << self.first


class Leases:
    """All of this for one blob; pure bookkeeping, no messages."""

    def __init__(self, pieces: Pieces, config: SwarmConfig, random: "Random", now: float) -> None:
        self.pieces = pieces
        self.participants: dict[NodeId, Participant] = {}
        self.running: dict[int, Lease] = {}
        self.seeds: dict[NodeId, float] = {}
        self.not_before = now
        self.leasable = True
        self.at_once = config.leases_start
        self._config = config
        self._random = random
        self._available = 0
        self._number = random.getrandbits(31)
        self._rate = Rate()
        self._piece_s: float | None = None
        self._trial_from: tuple[int, float] | None = None
        self._trial_at = now + TRIAL_S

    # --- participants -----------------------------------------------------------------------

    def register(self, participant: Participant) -> bool:
        """Somebody takes part, or tells anew. Returns whether it is new here."""
        old = self.participants.get(participant.node)
        if old is None:
            if not self.participants and (participant.held or participant.fetching):
                self.not_before = participant.heard_at + TAKEOVER_S  # others will tell more
        else:
            participant.leases, participant.granted = old.leases, old.granted
            participant.barren = old.barren
            participant.held_back_at = old.held_back_at
            if participant.heard_at - old.brought_at < ON_THE_WAY_S:
                participant.brought, participant.brought_at = old.brought, old.brought_at
                participant.held |= old.brought
            lasting = old.starved_long & participant.starved if old.starved_times else -1
            participant.starved_long = participant.starved & lasting & self.available
            if participant.starved_long:
                participant.starved_times = old.starved_times + 1
        lost = old is not None and old.held & ~participant.held
        self.participants[participant.node] = participant
        self._available |= participant.held
        if lost:
            self._recount()
        return old is None

    def is_old(self, node: NodeId, number: int) -> bool:
        """Whether a registration was overtaken by a later one."""
        known = self.participants.get(node)
        return known is not None and 0 < (known.number - number) % 2**32 <= REORDERED_MAX

    def remove(self, node: NodeId) -> None:
        """A participant is gone, with what it had and fetched."""
        self.seeds.pop(node, None)
        if self.participants.pop(node, None) is not None:
            for lease in [each for each in self.running.values() if each.holder == node]:
                del self.running[lease.number]
            self._recount()

    def disregard(self, node: NodeId) -> None:
        """What a participant says that it has counts for nothing; its leases are open again."""
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

    def hopeful(self) -> bool:
        """Whether somebody may yet fetch from the origin."""
        return any(p.able for p in self.participants.values())

    @property
    def available(self) -> int:
        """Pieces that any participant or seed has."""
        return self.pieces.all if self.seeds else self._available

    def open(self) -> int:
        """Pieces that nobody has and nobody fetches."""
        taken = self.available
        for lease in self.running.values():
            taken |= lease.pieces
        for participant in self.participants.values():
            taken |= participant.fetching
        return self.pieces.all & ~taken

    def wanting(self) -> bool:
        """Whether the origin has yet enough to do with this blob; if not, the next one may begin.

        That is so a little before its last lease is done, lest the origin's link idles.
        """
        return bool(self.open())

    # --- leases -----------------------------------------------------------------------------

    def grant(self, now: float, distrusted: "dict[NodeId, str]") -> list[Lease]:
        """Lease what is open, as far as there is room. ``distrusted`` get none."""
        if now < self.not_before:
            return []
        granted: list[Lease] = []
        open_ = self.open()
        willing = [p for p in self.participants.values() if p.willing and p.node not in distrusted]
        for participant in willing:
            if participant.starved_times >= STARVED_TIMES and not participant.leases:
                again = participant.starved_long & ~self._leased()
                if again:
                    self._note_barren(again, but=participant.node)
                    granted.append(self._lease(participant, again, LEASE_PIECES_MAX, now))
        if not open_ or not willing:
            return granted
        room = self.at_once if self._piece_s else min(self.at_once, self._config.leases_first)
        each_max = 1 if len(willing) >= room else -(-room // len(willing))
        run = len(self.participants) * 4
        fruitful = [p for p in willing if not p.barren] or willing
        candidates = [p for p in fruitful if p.leases < each_max]
        self._random.shuffle(candidates)
        # The best ones last: those first whom a limit of their own makes wait.
        candidates.sort(
            key=lambda p: (_held_back(p, now), p.leases, p.held.bit_count()), reverse=True
        )
        while open_ and candidates and len(self.running) < room:
            participant = candidates.pop()
            # The first who come are given one piece each: a crowd may be behind them.
            length = min(LEASE_PIECES_MAX, open_.bit_count() // run, 2 * participant.granted)
            lease = self._lease(participant, open_, max(1, length), now)
            open_ &= ~lease.pieces
            granted.append(lease)
        return granted

    def report(
        self, number: int, node: NodeId, bytes_done: int, now: float, *, held_back: bool = False
    ) -> Lease | None:
        """A holder tells how far it is. Returns the lease, or None if it has none such."""
        lease = self.running.get(number)
        if lease is None or lease.holder != node:
            return None
        if held_back:
            self._note_held_back(lease, now)
        else:
            lease.held_back_at = None
        lease.reported_at = now
        more = min(bytes_done, lease.size_bytes) - lease.bytes_done
        if more > 0:
            lease.bytes_done += more
            lease.moved_at = now
            lease.held_back_at = now if held_back else None
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
            holder.starved_long &= ~lease.pieces
            self._available |= lease.pieces
        took_s = lease.age_s(now) / lease.count
        self._piece_s = took_s if self._piece_s is None else 0.7 * self._piece_s + 0.3 * took_s

    def failed(self, lease: Lease) -> None:
        """A lease's holder gave it up, or it is taken from it: its pieces are open again."""
        self._end(lease)
        holder = self.participants.get(lease.holder)
        if holder is not None:
            holder.fetching &= ~lease.pieces

    def overdue(self, now: float) -> list[Lease]:
        """Leases that somebody else should have: silent, stalled, or much too slow."""
        late: list[Lease] = []
        slow = False
        for lease in self.running.values():
            heard_at = lease.reported_at or lease.granted_at
            silent = now - heard_at > self._config.lease_stalled_s
            if lease.moved_at is None:
                stalled = lease.age_s(now) > self._config.lease_first_byte_s
            else:
                stalled = now - lease.moved_at > self._config.lease_stalled_s
            if lease.held_back_at is not None and not silent:
                waited_s = now - lease.held_back_at
                if waited_s > self._config.lease_stalled_s and self._somebody_free(lease, now):
                    late.append(lease)
            elif silent or stalled:
                late.append(lease)
            elif self._too_slow(lease, now):
                late.append(lease)
                slow = True
        if slow and self._piece_s is not None:
            self._piece_s *= 2  # or an origin that is slow for all would have nobody ever finish
        return late

    def adapt(self, now: float) -> None:
        """Try whether more leases at a time make the origin give more."""
        if now < self._trial_at or not self.running:
            return
        rate = self._rate.bytes_per_s
        if self._trial_from is None:
            full = len(self.running) >= self.at_once and self._piece_s is not None
            more = min(self.at_once + max(1, self.at_once // 2), self._config.leases_max)
            if full and more > self.at_once and len(self.participants) > self.at_once:
                self._trial_from = (self.at_once, rate)
                self.at_once = more
            self._trial_at = now + TRIAL_S
            return
        before, rate_before = self._trial_from
        self._trial_from = None
        if rate < rate_before * (1 + TRIAL_WORTH):
            self.at_once = before
            self._trial_at = now + TRIAL_PAUSE_S
        else:
            self._trial_at = now + TRIAL_S

    def _note_barren(self, pieces: int, *, but: NodeId) -> None:
        """What only these have does not come out of them: they are leased no more."""
        holders = [p for p in self.participants.values() if p.held & pieces and p.node != but]
        if len(holders) <= BARREN_TOGETHER_MAX:
            for holder in holders:
                holder.barren = True

    def _too_slow(self, lease: Lease, now: float) -> bool:
        """Whether another would have it sooner than its holder, who is much slower than others.

        Where all are slow it is the origin: giving leases on would only throw bytes away.
        """
        age_s = lease.age_s(now)
        if self._piece_s is None or lease.bytes_done == 0:
            return False
        fresh_s = self._piece_s * lease.count
        rates = sorted(
            other.bytes_done / other.age_s(now)
            for other in self.running.values()
            if other is not lease and other.bytes_done and other.age_s(now) > 0
        )
        if rates:
            fresh_s = max(fresh_s, lease.size_bytes / rates[len(rates) // 2])
        if age_s < fresh_s + self._config.lease_slower_s:
            return False
        left_s = age_s * (lease.size_bytes - lease.bytes_done) / lease.bytes_done
        if left_s <= fresh_s + self._config.lease_slower_s:
            return False
        return any(p.willing and p.node != lease.holder for p in self.participants.values())

    def _note_held_back(self, lease: Lease, now: float) -> None:
        since = lease.granted_at if lease.reported_at is None else lease.reported_at
        lease.paused_s += now - since
        if lease.moved_at is not None:
            lease.moved_at += now - since
        if lease.held_back_at is None:
            lease.held_back_at = now
        holder = self.participants.get(lease.holder)
        if holder is not None:
            holder.held_back_at = now

    def _somebody_free(self, lease: Lease, now: float) -> bool:
        """Whether another than a lease's holder could fetch at once."""
        return any(
            p.willing and not p.leases and p.node != lease.holder and not _held_back(p, now)
            for p in self.participants.values()
        )

    def _lease(self, holder: Participant, among: int, length: int, now: float) -> Lease:
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


def _held_back(participant: Participant, now: float) -> bool:
    return now - participant.held_back_at < HELD_BACK_S
