"""Three nodes by name, and one blob of one piece."""

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import PIECE_BYTES_SMALL
from beiran.swarm.effects import Effect, SendDatagram
from beiran.swarm.messages import (
    Message,
)

CODEC = SwarmCodec("default")
OWN, A, B = (NodeId(bytes([n]) * 16) for n in range(3))
AT = {A: Address("10.0.0.1", 8888), B: Address("10.0.0.2", 8888)}
BLOB = Digest(b"b" * 32)
PIECE = PIECE_BYTES_SMALL


def sent(effects: list[Effect]) -> list[Message]:
    return [CODEC.decode_untrusted(e.data) for e in effects if isinstance(e, SendDatagram)]
