"""Keeping an idle TCP connection to a neighbour, to learn at once when its agent is gone.

The kernel of a killed process closes its connections within milliseconds. A connection that ends is
no proof (the agent may close it, or restart), but if a new one is refused where the last was not,
it is: the host is up and nobody listens. A refusal alone proves nothing: it may be a firewall's.
"""

from typing import Final, Protocol

import trio

from beiran.gossip.membership.member import Address
from beiran.peers.peer_client import PeerClient, WatchOutcome

RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 15.0
QUICK_RETRIES: Final = 3
STEADY_S: Final = 5.0  # a connection that lasted this long was a good one: start over


class Broken(Protocol):
    """Told when a connection could not be made."""

    def __call__(self, *, refused: bool) -> None:
        """``refused``: the host says that nobody listens there, where somebody did before."""
        ...


async def watch(peers: PeerClient, address: Address, path: str, broken: Broken) -> None:
    """Keep a connection to ``address`` until cancelled; tell ``broken`` whenever it is lost."""
    wait_s = RETRY_MIN_S
    quick = 0
    was_open = False
    while True:
        began = trio.current_time()
        try:
            outcome = await peers.watch_connection(address, path)
        except OSError:  # no file descriptors left: that says nothing of the neighbour
            outcome = WatchOutcome.DECLINED
        if trio.current_time() - began >= STEADY_S:
            wait_s, quick = RETRY_MIN_S, 0
        was_open = was_open or outcome is WatchOutcome.CLOSED
        if outcome is WatchOutcome.CLOSED and quick < QUICK_RETRIES:
            quick += 1  # it was open and ended: whether somebody still listens tells the reason
            continue
        if outcome in (WatchOutcome.REFUSED, WatchOutcome.UNREACHABLE):
            broken(refused=was_open and outcome is WatchOutcome.REFUSED)
        await trio.sleep(wait_s)
        wait_s = min(wait_s * 2, RETRY_MAX_S)
