"""The faults of the network: partitions, one-way cuts, and losses.

``datagrams`` and ``streams`` ask here for each packet whether it passes, and by which link. The
operations of scenarios (``simulations.gossip.operations``, ``simulations.swarm.operations``) call
``partition``, ``cut``, ``change`` and ``heal``. Hosts are named by their numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from simulations.kernel.links import Link


class Network:
    """Partitions, one-way cuts, and the link that all hosts share.

    Attributes:
      link: between any two hosts.
      changed: callbacks; each is called with a description of every change.
      intact: True if every host reaches every other, the quick case.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.changed: Final[list[Callable[[str], None]]] = []
        self.intact = True
        self._sides: dict[int, int] = {}
        self._cut: dict[tuple[int, int], None] = {}

    def change(self, **changes: object) -> None:
        """Change fields of the link: ``change(loss=0.1)``."""
        self.link = replace(self.link, **changes)  # type: ignore[arg-type]
        self._announce(" ".join(f"{name} {value}" for name, value in changes.items()))

    def partition(self, *groups: Sequence[int]) -> None:
        """Split the network into ``groups``; a host in no group is with the first."""
        self._sides = {host: side for side, group in enumerate(groups) for host in group}
        self._update()
        self._announce(f"falls apart into {len(groups)}")

    def cut(self, source: int, target: int) -> None:
        """Drop all packets from ``source`` to ``target``; the other direction stays."""
        self._cut[source, target] = None
        self._update()
        self._announce(f"loses the way from h{source} to h{target}")

    def mend(self, source: int, target: int) -> None:
        """Undo ``cut``."""
        self._cut.pop((source, target), None)
        self._update()
        self._announce(f"has the way from h{source} to h{target} again")

    def heal(self) -> None:
        """Undo every ``partition`` and ``cut``."""
        self._sides.clear()
        self._cut.clear()
        self._update()
        self._announce("is whole")

    def passes(self, source: int, target: int) -> bool:
        """Return whether packets of any kind get from one host to another."""
        if self.intact:
            return True
        if self._sides.get(source, 0) != self._sides.get(target, 0):
            return False
        return (source, target) not in self._cut

    def _announce(self, description: str) -> None:
        for callback in self.changed:
            callback(description)

    def _update(self) -> None:
        self.intact = not (self._sides or self._cut)
