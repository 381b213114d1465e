"""A host that sends noise: random bytes, broken packets, and old packets again.

A broken packet that still decodes is not sent. On a real network UDP's checksum stops it; one
that is made on purpose is a forgery, which the cluster's key stops and not this simulation.
"""

from collections import deque
from random import Random
from typing import Final

from beiran.errors import BadPacket
from beiran.gossip.config import DATAGRAM_BYTES_MAX
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.chance import stream

OVERHEARD_MAX: Final = 64  # datagrams kept to be broken or repeated
BITS_FLIPPED_MAX: Final = 4


def babble(world: World, host: Host, *, seconds: float, per_s: float) -> None:
    """Have ``host`` send ``per_s`` datagrams of noise a second to random hosts."""
    host.overheard = host.overheard or deque(maxlen=OVERHEARD_MAX)
    random = stream(world.seed, "babble", host.number, world.now)
    _send(world, host, random, world.now + seconds, 1.0 / per_s)


def _send(world: World, host: Host, random: Random, until: float, interval_s: float) -> None:
    if world.now >= until or not host.up:
        return
    target = random.choice(world.hosts)
    data = _noise(host, random)
    if data:
        world.send(host, target.address, data)
    world.schedule(world.now + interval_s, _send, world, host, random, until, interval_s)


def _noise(host: Host, random: Random) -> bytes:
    heard = list(host.overheard or ())
    kind = random.randrange(4)
    if not heard or kind == 0:
        return random.randbytes(random.randint(1, DATAGRAM_BYTES_MAX))
    data = random.choice(heard)
    if kind == 1:
        return data
    if kind == 2:
        broken = data[: random.randrange(len(data))]
    else:
        flipped = bytearray(data)
        for _ in range(random.randint(1, BITS_FLIPPED_MAX)):
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        broken = bytes(flipped)
    return b"" if _decodes(host, broken) else broken


def _decodes(host: Host, data: bytes) -> bool:
    try:
        message = host.codec.decode_datagram_untrusted(data)
        host.codec.decode_news_untrusted(getattr(message, "news", ()))
    except BadPacket:
        return False
    return True
