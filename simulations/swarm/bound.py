"""The least time in which a crowd can have an image, whatever the protocol.

Sources: for bytes as a fluid, Kumar and Ross, "Peer-Assisted File Distribution: The Minimum
Distribution Time" (2006); for pieces that are passed on only when they are whole, Mundinger, Weber
and Weiss, "Optimal scheduling of peer-to-peer file dissemination" (2008).
"""

from collections.abc import Sequence


def fluid_bound_s(
    size_bytes: int, origin: float, ups: Sequence[float], downs: Sequence[float]
) -> float:
    """Return the seconds until all hosts have ``size_bytes``.

    Args:
      origin: rate of the origin, in bytes a second.
      ups: rate of each host that sends; one that goes early counts whole.
      downs: rate of each host that ends with the image.
    """
    if not downs:
        return 0.0
    all_of_it = len(downs) * size_bytes / (origin + sum(ups))
    return max(size_bytes / origin, size_bytes / min(downs), all_of_it)


def whole_pieces_bound_s(size_bytes: int, pieces: int, rate: float, hosts: int) -> float:
    """Return the bound with whole pieces, if the origin and ``hosts`` all have one rate.

    The last piece leaves the origin last; the hosts that have it double in each piece's time.
    """
    if not hosts or not pieces:
        return 0.0
    return size_bytes / rate * (1 + (hosts.bit_length() - 1) / pieces)
