"""A host that sends noise: random bytes, broken packets, old packets once more.

What still reads as a message after it was broken is not sent. On a real network a checksum stops
it; on purpose it would be a lie, and lies are stopped by the cluster's key, not here.
"""

from collections import deque
from random import Random
from typing import Final

from beiran.errors import BadPacket
from beiran.gossip.config import DATAGRAM_BYTES_MAX
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.chance import stream

OVERHEARD_MAX: Final = 64


def babble(world: World, host: Host, *, seconds: float, per_s: float) -> None:
    """Have ``host`` send ``per_s`` datagrams of noise a second, to all in turn, for a while."""
    host.overheard = host.overheard or deque(maxlen=OVERHEARD_MAX)
    random = stream(world.seed, "babble", host.number, world.now)
    _say(world, host, random, world.now + seconds, 1.0 / per_s)


def _say(world: World, host: Host, random: Random, until: float, interval_s: float) -> None:
    if world.now >= until or not host.up:
        return
    target = random.choice(world.hosts)
    data = _noise(host, random)
    if data:
        world.send(host, target.address, data)
    world.schedule(world.now + interval_s, _say, world, host, random, until, interval_s)


def _noise(host: Host, random: Random) -> bytes:
    heard = list(host.overheard or ())
    kind = random.randrange(4)
    if not heard or kind == 0:
        return random.randbytes(random.randint(1, DATAGRAM_BYTES_MAX))
    data = random.choice(heard)
    if kind == 1:  # again, as it was
        return data
    if kind == 2:
        broken = data[: random.randrange(len(data))]
    else:
        flipped = bytearray(data)
        for _ in range(random.randint(1, 4)):
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        broken = bytes(flipped)
    return b"" if _reads(host, broken) else broken


def _reads(host: Host, data: bytes) -> bool:
    try:
        message = host.codec.decode_datagram_untrusted(data)
        host.codec.decode_news_untrusted(getattr(message, "news", ()))
    except BadPacket:
        return False
    return True
