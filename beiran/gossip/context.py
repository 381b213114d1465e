"""What all parts of a gossip core share: configuration, time, timers, and the pending effects."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, SendDatagram, SendRequest
from beiran.gossip.membership.member import Address, Status
from beiran.gossip.membership.member_table import MemberTable
from beiran.gossip.messages import Datagram, Stream
from beiran.gossip.requests import Request
from beiran.gossip.timers import Timer
from beiran.sansio.context import CoreContext

if TYPE_CHECKING:
    from random import Random


class Context(CoreContext[Timer, Effect]):
    """Shared by the parts of a node.

    Attributes:
      lost_at: when a ping of this node last got no answer at once.
      requests: by token, what each request over TCP was for that has no reply yet.
    """

    def __init__(
        self,
        config: GossipConfig,
        codec: Codec,
        random: "Random",
        members: MemberTable,
        now: float,
    ) -> None:
        super().__init__(random, now)
        self.config = config
        self.codec = codec
        self.members = members
        self.lost_at = -math.inf
        self.requests: dict[int, Request] = {}
        self._token = 0

    @property
    def leaving(self) -> bool:
        """Whether this node has announced that it leaves."""
        return self.members.own.status == Status.LEFT

    def send(self, to: Address, message: Datagram, *, confirmed: bool = False) -> None:
        """Send a datagram. ``confirmed``: the address answered lately."""
        data = self.codec.encode_datagram(message)
        self.count_sent(data)
        self.emit(SendDatagram(to, data, confirmed))

    def send_to_all(self, addresses: Iterable[Address], message: Datagram) -> None:
        """Send one datagram to several members. It is encoded once."""
        data = self.codec.encode_datagram(message)
        for address in addresses:
            self.count_sent(data)
            self.emit(SendDatagram(address, data))

    def request(self, to: Address, message: Stream, purpose: Request, *, timeout_s: float) -> None:
        """Send a request over TCP. ``purpose`` comes back with its reply or its failure."""
        self._token += 1
        self.requests[self._token] = purpose
        self.counters["requests_sent"] += 1
        self.emit(SendRequest(to, self.codec.encode_stream(message), self._token, timeout_s))
