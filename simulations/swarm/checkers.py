"""What must be true of every crowd, looked at while it pulls and when it has ended.

Everybody who wants the image and can be reached ends with all of it and nothing wrong in it, or is
told why not; the origin gives no more than needs be; nobody honest is called a liar; nothing is
left waiting.
"""

import math
from typing import Final

from beiran.swarm.config import PIECE_BYTES
from simulations.gossip.checkers import Violation
from simulations.swarm.crowd import Stage
from simulations.swarm.host import Host
from simulations.swarm.world import STARTED_AT_S

CALM_EGRESS_MAX: Final = 1.1
"""Copies of the image that the origin gives to a crowd that nothing befalls."""
SLACK_PIECES: Final = 2
"""More than that, of a small image: a piece is a large part of it."""
REST_S: Final = 10.0
"""After the last linger: what was to be told is told by then."""
SOON_S: Final = 300.0
"""What is due later is no work, but something that is forgotten then (who was distrusted)."""


class Checkers:
    """All invariants of one crowd; ``violation`` is the first that did not hold."""

    def __init__(self, stage: Stage, *, calm: bool) -> None:
        self.violation: Violation | None = None
        self._stage = stage
        self._calm = calm
        self._named: dict[Host, int] = {}

    def fail(self, invariant: str, text: str) -> None:
        """An invariant did not hold; the first counts."""
        if self.violation is None:
            at_s = self._stage.world.now - STARTED_AT_S
            self.violation = Violation(invariant, at_s, text)

    def look(self) -> None:
        """While it runs."""
        stage = self._stage
        forged = any(host.lies for host in stage.hosts)
        if stage.world.wrong_accepted and not forged:
            self.fail("wrong bytes are accepted", f"{stage.world.wrong_accepted} pieces")
        for host in stage.hosts:
            if len(host.distrusted) != self._named.get(host, 0):
                self._named[host] = len(host.distrusted)
                self._look_at_named(host)

    def settled(self) -> bool:
        """Everybody has got what is owed, or was told that there is no source."""
        return all(self._stage.has(host) or self._excused(host) for host in self._stage.owed())

    def at_end(self) -> None:
        """The time is over in which everybody must have it."""
        stage = self._stage
        self.look()
        for host in stage.owed():
            lacking = [blob.name for blob in stage.blobs if blob.digest not in host.done_at]
            if lacking and not self._excused(host):
                self.fail("the image never comes", f"{host.name} lacks {', '.join(lacking)}")
            self._look_at_bytes(host)
        if self._calm:
            slack = SLACK_PIECES * PIECE_BYTES
            sent, most = stage.world.origin.sent_bytes, CALM_EGRESS_MAX * stage.image_bytes + slack
            if sent > most:
                copies = sent / stage.image_bytes
                self.fail("the origin gives too much", f"{copies:.2f} copies of the image")

    def at_rest(self) -> None:
        """All is over since long: nothing is due, nothing flows."""
        for host in self._stage.hosts:
            if not host.reachable or not self._at_rest_by_now(host):
                continue
            if host.transfers or host.uploads:
                counts = f"{len(host.transfers)} fetches, {len(host.uploads)} uploads"
                self.fail("something is left under way", f"{host.name}: {counts}")
            deadline = host.node.next_deadline()
            in_s = (deadline or math.inf) - self._stage.world.now
            if in_s < SOON_S:
                self.fail("something is left waiting", f"{host.name}: due in {in_s:.3f} s")

    def _excused(self, host: Host) -> bool:
        """The origin denies it the image, and it knows that nobody else gives it."""
        if host.id not in self._stage.world.origin.refused:
            return False
        return all(b.digest in host.done_at or b.digest in host.stuck for b in self._stage.blobs)

    def _at_rest_by_now(self, host: Host) -> bool:
        """It wants nothing any more."""
        return host not in self._stage.wanted or self._stage.has(host)

    def _look_at_named(self, host: Host) -> None:
        """A liar's word counts for nothing, and it may believe what it likes."""
        if host.lies:
            return
        for node, reason in host.distrusted.items():
            if node not in self._stage.liars:
                name = self._stage.world.by_id[node].name
                self.fail("an honest host is distrusted", f"{host.name} distrusts {name}: {reason}")

    def _look_at_bytes(self, host: Host) -> None:
        if host.lies:
            return
        for (digest, piece), marks in host.file.items():
            if marks and digest in host.done_at:
                self.fail("wrong bytes are kept", f"{host.name}, piece {piece}: {marks}")
