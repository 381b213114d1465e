"""Upload slots: how many peers fetch from this node at once.

As many run as fill the uplink, and no more. With many at once each is slow, and no receiver has a
whole piece to pass on for a long time. ``uploads_waiting`` further requests wait, so that the
link never idles between two uploads. When an upload ends, the next slot goes to the requester that
receives least now, and among equals to the piece that this node has sent least often: so a fresh
piece leaves once, and its receivers pass it on. Further requests get BUSY. (BitTorrent's choking
solves another problem: it rewards peers that upload in return; here all belong to one operator.)
"""

from collections import Counter

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.sansio.rate import Rate
from beiran.swarm.config import PIECE_BYTES, SwarmConfig


class Upload(Struct):
    """A peer's request that has a slot (``admitted``) or waits for one.

    ``active``: how many other fetches bring bytes to the peer now, by its own word.
    """

    number: int
    peer: NodeId
    digest: Digest
    piece: int
    active: int
    admitted: bool = False


class UploadSlots:
    """Counts uploads, and admits the next one."""

    def __init__(self, config: SwarmConfig) -> None:
        self._config = config
        self._taken: dict[int, Upload] = {}
        self._number = 0
        self._rate = Rate()
        self._ended = 0
        self._sent: Counter[tuple[Digest, int]] = Counter()

    def __len__(self) -> int:
        return len(self._taken)

    def slots(self) -> int:
        """How many uploads may run at once: as many pieces as leave in ``in_flight_s``."""
        pieces = self._rate.bytes_per_s * self._config.in_flight_s / PIECE_BYTES
        slots = max(self._config.uploads_min, min(self._config.uploads_max, round(pieces)))
        return min(slots, self._config.uploads_first + self._ended)

    def begin(
        self, peer: NodeId, digest: Digest, piece: int, active: int, *, whole: bool
    ) -> Upload | None:
        """Take a request for a piece, or return None: BUSY.

        Args:
          whole: this node has the whole blob, so others may, too: the piece is not a fresh one.
        """
        same = sum(1 for u in self._taken.values() if u.piece == piece and u.digest == digest)
        if not whole and same >= self._config.uploads_of_piece:
            return None
        slots = self.slots()
        running = sum(1 for upload in self._taken.values() if upload.admitted)
        if len(self._taken) - running >= self._config.uploads_waiting:
            return None
        self._number += 1
        upload = self._taken[self._number] = Upload(self._number, peer, digest, piece, active)
        if running < slots:
            self._admit(upload)
        return upload

    def end(self, number: int, bytes_sent: int, now: float) -> list[Upload]:
        """An upload is over, complete or not. Returns the ones that may start now."""
        if self._taken.pop(number, None) is None:
            return []
        self._rate.add(bytes_sent, now)
        self._ended += 1
        free = self.slots() - sum(1 for upload in self._taken.values() if upload.admitted)
        admitted: list[Upload] = []
        waiting = [upload for upload in self._taken.values() if not upload.admitted]
        while free > 0 and waiting:
            best = min(waiting, key=lambda u: (u.active, self._sent[u.digest, u.piece], u.number))
            waiting.remove(best)
            self._admit(best)
            admitted.append(best)
            free -= 1
        return admitted

    def forget(self, digest: Digest) -> None:
        """A blob is not in flight any more: forget how often its pieces were sent."""
        for key in [key for key in self._sent if key[0] == digest]:
            del self._sent[key]

    def _admit(self, upload: Upload) -> None:
        upload.admitted = True
        self._sent[upload.digest, upload.piece] += 1
