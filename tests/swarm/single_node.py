"""One node, its peers and one blob of two pieces: send it messages and read its answers."""

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import NEIGHBOURS_MAX, PIECE_BYTES_SMALL
from beiran.swarm.effects import BlobComplete, Effect, FetchFromOrigin, SendDatagram
from beiran.swarm.messages import (
    Grant,
    HashesWanted,
    Have,
    Message,
)
from beiran.swarm.node import BlobWanted, SwarmNode

CODEC = SwarmCodec("default")
OWN = NodeId(b"o" * 16)
PEERS = [NodeId(bytes([n]) * 16) for n in range(NEIGHBOURS_MAX + 3)]
AT = {node: Address(f"10.0.0.{node[0] + 1}", 8888) for node in PEERS}
BLOB = Digest(b"b" * 32)
SIZE = 2 * PIECE_BYTES_SMALL
HASHES = (b"0" * 32, b"1" * 32)


def tell(node: SwarmNode, message: Message, *, now: float = 0.1) -> list[Effect]:
    return node.receive_datagram(CODEC.encode(message), AT[message.sender], now=now)


def answers(effects: list[Effect], to: NodeId) -> list[Message]:
    sent = [e for e in effects if isinstance(e, SendDatagram) and e.to == AT[to]]
    return [CODEC.decode_untrusted(each.data) for each in sent]


def have(sender: NodeId, held: bytes = b"\x03", *, reply_wanted: bool = False) -> Have:
    return Have(sender, BLOB, SIZE, held, reply_wanted, True, 0)


def pull_alone(node: SwarmNode) -> None:
    """It has the blob whole, from the origin, and verified."""
    node.want(BlobWanted(BLOB, SIZE, True), now=0.0)
    effects = tell(node, Grant(PEERS[0], BLOB, 5, 0, 2))
    fetch = next(e for e in effects if isinstance(e, FetchFromOrigin))
    for piece, hash in enumerate(HASHES):
        accepted, effects = node.piece_arrived(fetch.fetch, piece, hash, now=0.2)
        assert accepted
    assert BlobComplete(BLOB) in effects
    node.fetch_done(fetch.fetch, now=0.2)
    node.verified(BLOB, now=0.3)


def wanted(piece_bits: bytes = b"\x03") -> HashesWanted:
    return HashesWanted(PEERS[1], BLOB, SIZE, piece_bits)
