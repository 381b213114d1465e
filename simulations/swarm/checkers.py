"""The invariants of a crowd, checked while it pulls and when it has ended.

Every host that wants the image and can be reached ends with all of it and no wrong byte, or knows
why it cannot have it. The origin sends no more than needed. No honest host is banned. At the
end nothing is under way.
"""

import math
from typing import Final

from beiran.swarm.config import PIECE_BYTES
from simulations.kernel import checkers as kernel
from simulations.swarm.host import Host
from simulations.swarm.image_pull import ImagePull

CALM_EGRESS_MAX: Final = 1.1
"""Copies of the image that the origin sends to a crowd that no operation disturbs. Beyond one
copy: pieces whose lease was passed on although their transfer was under way."""
SLACK_PIECES: Final = 2
"""Pieces more, because of a small image one piece is a large share."""
REST_S: Final = 10.0
"""After the last linger every message that was due has been sent."""
SOON_S: Final = 300.0
"""A timer that is due later is no work left: it ends a ban."""


class Checkers(kernel.Checkers):
    """All invariants of one crowd.

    Args:
      calm: whether the origin has no reason to send anything twice.
    """

    def __init__(self, pull: ImagePull, *, calm: bool) -> None:
        super().__init__(pull.world.time)
        self._pull = pull
        self._calm = calm
        self._bans: dict[Host, int] = {}

    def look(self) -> None:
        """Check while it runs."""
        pull = self._pull
        forged = any(host.lies for host in pull.hosts)
        if pull.world.wrong_accepted and not forged:
            self.fail("wrong bytes are accepted", f"{pull.world.wrong_accepted} pieces")
        for host in pull.hosts:
            if len(host.bans) != self._bans.get(host, 0):
                self._bans[host] = len(host.bans)
                self._bans_only_misbehaving_peers(host)

    def settled(self) -> bool:
        """Whether every host has the image or knows that there is no source."""
        return all(self._pull.has(host) or self._excused(host) for host in self._pull.owed())

    def at_end(self) -> None:
        """Check when the time is over in which every host must have the image."""
        pull = self._pull
        self.look()
        for host in pull.owed():
            lacking = [blob.name for blob in pull.blobs if blob.digest not in host.done_at]
            if lacking and not self._excused(host):
                self.fail("the image never comes", f"{host.name} lacks {', '.join(lacking)}")
            self._keeps_right_bytes(host)
        if self._calm:
            slack = SLACK_PIECES * PIECE_BYTES
            sent, most = pull.world.origin.sent_bytes, CALM_EGRESS_MAX * pull.image_bytes + slack
            if sent > most:
                copies = sent / pull.image_bytes
                self.fail("the origin gives too much", f"{copies:.2f} copies of the image")

    def at_rest(self) -> None:
        """Check long after the end: nothing is due, and nothing flows."""
        for host in self._pull.hosts:
            if not host.online or (host in self._pull.wanted and not self._pull.has(host)):
                continue
            if host.transfers or host.uploads:
                counts = f"{len(host.transfers)} fetches, {len(host.uploads)} uploads"
                self.fail("something is left under way", f"{host.name}: {counts}")
            deadline = host.node.next_deadline()
            in_s = (deadline or math.inf) - self._pull.world.now
            if in_s < SOON_S:
                self.fail("something is left waiting", f"{host.name}: due in {in_s:.3f} s")

    def _excused(self, host: Host) -> bool:
        """Whether the origin denies the image, and the host knows that no peer has it."""
        if host.id not in self._pull.world.origin.refused:
            return False
        return all(b.digest in host.done_at or b.digest in host.stuck for b in self._pull.blobs)

    def _bans_only_misbehaving_peers(self, host: Host) -> None:
        """An honest host bans only hosts that flipped bytes."""
        if host.lies:
            return
        for node, reason in host.bans.items():
            if node not in self._pull.liars:
                name = self._pull.world.by_id[node].name
                self.fail("an honest host is banned", f"{host.name} bans {name}: {reason}")

    def _keeps_right_bytes(self, host: Host) -> None:
        """An honest host has no wrong byte in a blob that it verified."""
        if host.lies:
            return
        for (digest, piece), marks in host.file.items():
            if marks and digest in host.done_at:
                self.fail("wrong bytes are kept", f"{host.name}, piece {piece}: {marks}")
