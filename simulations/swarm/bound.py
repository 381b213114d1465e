"""The least time in which a crowd can have an image, whatever the protocol.

Sources: the fluid bound of Kumar and Ross, "Peer-Assisted File Distribution: The Minimum
Distribution Time" (2006); that of whole pieces, which are passed on only when they are whole,
Mundinger, Weber and Weiss, "Optimal scheduling of peer-to-peer file dissemination" (2008).
"""

from collections.abc import Sequence


def fluid_bound_s(
    size_bytes: int, origin: float, ups: Sequence[float], downs: Sequence[float]
) -> float:
    """Seconds until all have ``size_bytes``.

    Args:
      origin: what the origin sends, in bytes a second.
      ups: what each host that gives can give, in bytes a second; who goes early counts whole.
      downs: what each host that ends with the image can take, in bytes a second.
    """
    if not downs:
        return 0.0
    all_of_it = len(downs) * size_bytes / (origin + sum(ups))
    return max(size_bytes / origin, size_bytes / min(downs), all_of_it)


def whole_pieces_bound_s(size_bytes: int, pieces: int, rate: float, hosts: int) -> float:
    """As ``fluid_bound_s``, where the origin and ``hosts`` all have one rate, with whole pieces.

    The last piece leaves the origin last, and who has it doubles with each piece's time.
    """
    if not hosts or not pieces:
        return 0.0
    return size_bytes / rate * (1 + (hosts.bit_length() - 1) / pieces)
