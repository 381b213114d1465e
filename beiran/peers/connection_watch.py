"""Keep an idle TCP connection to a neighbour, to learn within milliseconds that its agent died.

The kernel of a killed process closes its connections. An ended connection is no proof of death (the
agent may close it, or restart). A refused new one after it is: the host is up and no program
listens. A refusal alone proves nothing, as a firewall may send it. The gossip driver runs one
``watch`` for each neighbour that the core names (``gossip/membership/ring_watch.py``), and gives
the core its evidence. The watched agent's end of the connection is in ``http/server.py``.
"""

from typing import Final, Protocol

import trio

from beiran.gossip.membership.member import Address
from beiran.peers.peer_client import PeerClient, WatchOutcome

# Chosen, not measured: the first retries find out why a connection ended, the slow ones cost one
# packet each while a neighbour is away.
RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 15.0
QUICK_RETRIES: Final = 3  # at once: an agent that restarts may close a connection or two
STEADY_S: Final = 5.0  # after a connection of this length the retries begin anew


class Broken(Protocol):
    """Called when a connection cannot be made."""

    def __call__(self, *, refused: bool) -> None:
        """``refused``: the host refuses a connection where this watch had one before."""
        ...


async def watch(peers: PeerClient, address: Address, path: str, broken: Broken) -> None:
    """Keep a connection to ``address`` until cancelled. Call ``broken`` when none can be made."""
    wait_s = RETRY_MIN_S
    quick = 0
    was_open = False
    while True:
        began = trio.current_time()
        try:
            outcome = await peers.watch_connection(address, path)
        except OSError:  # no file descriptors left, which is no evidence about the neighbour
            outcome = WatchOutcome.DECLINED
        if trio.current_time() - began >= STEADY_S:
            wait_s, quick = RETRY_MIN_S, 0
        was_open = was_open or outcome is WatchOutcome.CLOSED
        if outcome is WatchOutcome.CLOSED and quick < QUICK_RETRIES:
            quick += 1  # it was open and ended: a new one shows whether the agent still listens
            continue
        if outcome in (WatchOutcome.REFUSED, WatchOutcome.UNREACHABLE):
            broken(refused=was_open and outcome is WatchOutcome.REFUSED)
        await trio.sleep(wait_s)
        wait_s = min(wait_s * 2, RETRY_MAX_S)
