"""What all parts of one node share: its parameters, its clock's last reading, its way out."""

import math
from collections import Counter
from typing import TYPE_CHECKING

from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, SendDatagram, SendRequest
from beiran.gossip.membership.member import Address
from beiran.gossip.membership.member_table import Membership
from beiran.gossip.messages import Datagram, Stream
from beiran.sansio.timers import Timers

if TYPE_CHECKING:
    from random import Random


TimerKey = tuple[str, object]
"""What is due, and about whom."""


class Context:
    """Shared by the parts of a node; each part is handed it and nothing global.

    Attributes:
      now: the time of the input being handled, in seconds.
      effects: what this input has led to so far.
      counters: what happened how often, for people.
      lost_at: when a ping of ours was last not answered at once.
    """

    def __init__(
        self, config: GossipConfig, codec: Codec, random: "Random", members: Membership, now: float
    ) -> None:
        self.config = config
        self.codec = codec
        self.random = random
        self.members = members
        self.now = now
        self.timers: Timers[TimerKey] = Timers()
        self.effects: list[Effect] = []
        self.counters: Counter[str] = Counter()
        self.lost_at = -math.inf
        self._token = 0

    def emit(self, effect: Effect) -> None:
        """Want something done, or tell what was found out."""
        self.effects.append(effect)

    def set_timer(self, kind: str, about: object, delay_s: float) -> None:
        """Be called for ``kind`` in ``delay_s`` seconds; replaces an earlier one about the same."""
        self.timers.set((kind, about), self.now + delay_s)

    def cancel_timer(self, kind: str, about: object) -> None:
        """Not be called for it, if that was so."""
        self.timers.cancel((kind, about))

    def send(self, to: Address, message: Datagram, *, confirmed: bool = False) -> None:
        """Send a datagram."""
        data = self.codec.encode_datagram(message)
        self.counters["datagrams_sent"] += 1
        self.counters["datagram_bytes_sent"] += len(data)
        self.emit(SendDatagram(to, data, confirmed))

    def request(self, to: Address, message: Stream, *, timeout_s: float) -> int:
        """Send a request over TCP. Returns the token that its reply will carry."""
        self._token += 1
        self.counters["requests_sent"] += 1
        self.emit(SendRequest(to, self.codec.encode_stream(message), self._token, timeout_s))
        return self._token
