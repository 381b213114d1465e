"""Random numbers that depend on the seed and on nothing else.

Every host and every purpose has a stream of its own. One draw more for one purpose changes no
other, so two runs that differ in one operation stay comparable, and a scenario can be shrunk.
"""

import hashlib
from random import Random


def stream(seed: int, *purpose: object) -> Random:
    """Return the stream for ``purpose`` (text and numbers).

    Equal arguments give equal streams in every process, whatever its hash seed.
    """
    text = "\0".join([str(seed), *(str(part) for part in purpose)])
    return Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big"))
