"""How many may fetch from us at once: enough to keep our link busy, and no more.

Many uploads at once are each slow, and a piece that is under way to many is with nobody for long:
few at a time spread it sooner. A few more requests wait, so that the link never idles; when one
ends, the next is the one for the piece that we gave least often, so that a fresh piece goes out
once, and those who got it give it to the others. Beyond that we are BUSY.
"""

from collections import Counter

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.sansio.rate import Rate
from beiran.swarm.config import PIECE_BYTES, SwarmConfig


class Upload(Struct):
    """A peer's request that we took. ``admitted``: its bytes may be sent; else it waits."""

    number: int
    peer: NodeId
    digest: Digest
    piece: int
    active: int
    admitted: bool = False


class Uploads:
    """Counts uploads and decides about the next."""

    def __init__(self, config: SwarmConfig) -> None:
        self._config = config
        self._taken: dict[int, Upload] = {}
        self._number = 0
        self._rate = Rate()
        self._ended = 0
        self._given: Counter[tuple[Digest, int]] = Counter()

    def __len__(self) -> int:
        return len(self._taken)

    def room(self) -> int:
        """So many may run at once: as many as our link empties in ``in_flight_s``."""
        pieces = self._rate.bytes_per_s * self._config.in_flight_s / PIECE_BYTES
        room = max(self._config.uploads_min, min(self._config.uploads_max, round(pieces)))
        return min(room, self._config.uploads_first + self._ended)

    def begin(
        self, peer: NodeId, digest: Digest, piece: int, active: int, *, whole: bool
    ) -> Upload | None:
        """Take a request; None: BUSY. ``whole``: we have the blob whole, as others may."""
        same = sum(1 for u in self._taken.values() if u.piece == piece and u.digest == digest)
        if not whole and same >= self._config.uploads_of_piece:
            return None
        room = self.room()
        running = sum(1 for upload in self._taken.values() if upload.admitted)
        if len(self._taken) - running >= self._config.uploads_waiting:
            return None
        self._number += 1
        upload = self._taken[self._number] = Upload(self._number, peer, digest, piece, active)
        if running < room:
            self._admit(upload)
        return upload

    def end(self, number: int, bytes_sent: int, now: float) -> list[Upload]:
        """One is over, whether all was sent or not. Returns those that may start now."""
        if self._taken.pop(number, None) is None:
            return []
        self._rate.add(bytes_sent, now)
        self._ended += 1
        room = self.room() - sum(1 for upload in self._taken.values() if upload.admitted)
        admitted: list[Upload] = []
        waiting = [upload for upload in self._taken.values() if not upload.admitted]
        while room > 0 and waiting:
            best = min(waiting, key=lambda u: (u.active, self._given[u.digest, u.piece], u.number))
            waiting.remove(best)
            self._admit(best)
            admitted.append(best)
            room -= 1
        return admitted

    def forget(self, digest: Digest) -> None:
        """The blob is not in flight any more: how often its pieces were given is of no use."""
        for key in [key for key in self._given if key[0] == digest]:
            del self._given[key]

    def _admit(self, upload: Upload) -> None:
        upload.admitted = True
        self._given[upload.digest, upload.piece] += 1
