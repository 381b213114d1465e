"""The timeout of a suspicion, and the table of all suspicions that run.

``suspicion_protocol`` begins and confirms suspicions, and declares members down. This module keeps
the accusers of each suspect and computes how long the suspect may still refute.

Lifeguard §IV-B (LHA-Suspicion): the timeout starts at ``beta`` times its minimum and shrinks with
each independent accuser. So one node that alone receives badly is slow to declare others down,
while a crash that several nodes see is declared soon. Refused connections are evidence of another
kind: silence may be the network's fault, a refusal comes from a host that is up and says that no
agent is there.
"""

import math
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from beiran.gossip.context import Context
from beiran.gossip.messages import NewsItem, Suspect
from beiran.ids import NodeId

ACCUSERS_MAX: Final = 16  # a bound on memory; Lifeguard's K, after which no more count, is 3


class Suspicion(Struct):
    """The suspicion of one member in one of its lives, as this node keeps it.

    Attributes:
      accusers: the members that could not reach it, in order, each once.
      refused: those of them whose connection was refused.
      minimum_s, maximum_s: bounds of the timeout.
      confirmations: how many accusers after the first bring the timeout down to its minimum.
      excused_s: time that does not count, because this node was deaf or did not run.
      last_call: whether the suspect was pinged once more before it would be declared down.
      heard_at: when the suspect itself last sent this node a packet, as far as that was considered.
    """

    node: NodeId
    generation: int
    incarnation: int
    started_at: float
    minimum_s: float
    maximum_s: float
    confirmations: int
    accusers: list[NodeId]
    refused: list[NodeId]
    excused_s: float = 0.0
    last_call: bool = False
    heard_at: float = 0.0

    @property
    def life(self) -> tuple[int, int]:
        """The life of the member that is suspected."""
        return (self.generation, self.incarnation)

    def accuse(self, by: NodeId, *, refused: bool) -> bool:
        """Count an accusation. Returns whether it was new."""
        new = False
        if by not in self.accusers and len(self.accusers) < ACCUSERS_MAX:
            self.accusers.append(by)
            new = True
        if refused and by not in self.refused:
            self.refused.append(by)
            new = True
        return new

    @property
    def deadline(self) -> float:
        """When the timeout ends (seconds, as ``started_at``).

        Source: Lifeguard §IV-B; memberlist ``remainingSuspicionTime`` (suspicion.go).
        """
        timeout_s = self.minimum_s
        if self.confirmations > 0:
            share = math.log(len(self.accusers)) / math.log(self.confirmations + 1)
            timeout_s = self.maximum_s - share * (self.maximum_s - self.minimum_s)
        return self.started_at + max(self.minimum_s, timeout_s) + self.excused_s


class Suspicions:
    """The suspicions that run, by member."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._by_node: dict[NodeId, Suspicion] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    def __iter__(self) -> Iterator[Suspicion]:
        return iter(list(self._by_node.values()))

    def get(self, node: NodeId) -> Suspicion | None:
        """The suspicion of a member, or None."""
        return self._by_node.get(node)

    def put(self, suspicion: Suspicion) -> None:
        """Begin a suspicion. It replaces that of an earlier life."""
        self._by_node[suspicion.node] = suspicion

    def end(self, node: NodeId) -> bool:
        """End the suspicion of a member. Returns whether there was one."""
        return self._by_node.pop(node, None) is not None

    def news_for(self, node: NodeId) -> list[NewsItem]:
        """What each message to a suspect says first: that it is suspected, so that it can refute.

        Source: Lifeguard §IV-C, Buddy System.
        """
        suspicion = self._by_node.get(node)
        if suspicion is None or not self._context.config.buddy:
            return []
        own = self._context.members.own.node
        suspect = Suspect(node, suspicion.generation, suspicion.incarnation, own)
        return [self._context.codec.encode_news(suspect)]
