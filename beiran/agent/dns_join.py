"""Look up the names of the setting ``dns``, and join the cluster at the addresses they give."""

from collections.abc import Sequence
from typing import Final

import trio

from beiran.agent.gossip_driver import GossipDriver

# Chosen, not measured: headless services and SRV records have TTLs of 5 to 60 s.
INTERVAL_S: Final = 30.0
TIMEOUT_S: Final = 5.0  # resolv.conf(5): the default timeout of one query


class DnsJoin:
    """Joins again every ``INTERVAL_S``, since names gain addresses while hosts come.

    Attributes:
      problems: names that could not be looked up last time, one line each.
    """

    def __init__(self, names: Sequence[str], port: int, driver: GossipDriver) -> None:
        self._names: Final = names
        self._port: Final = port
        self._driver: Final = driver
        self.problems: tuple[str, ...] = ()

    async def serve(self) -> None:
        """Look up until cancelled. Without names, return at once."""
        if not self._names:
            return
        from beiran.net.dns import resolve_peers  # dnspython takes 50 ms; most agents need no DNS

        while True:
            resolved = await resolve_peers(self._names, self._port, timeout_s=TIMEOUT_S)
            self.problems = tuple(str(problem) for problem in resolved.problems)
            now = trio.current_time()
            self._driver.do(self._driver.node.join(resolved.addresses, now=now))
            await trio.sleep(INTERVAL_S)
