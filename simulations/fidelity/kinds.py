"""Packets that kernels send by themselves, counted beside those of the agents.

The numbers are tags that no message of ours has (``simulations.gossip.host.KINDS``).
"""

from typing import Final

ARP: Final = 28
KEEPALIVE: Final = 29
