"""A suspicion: how long a suspect may refute before it is declared down.

Lifeguard §IV-B (LHA-Suspicion): the time starts at ``beta`` times its least and shrinks with each
independent confirmation, so that one node which alone hears badly is slow to condemn, while a
crash that several see is told soon. Refused connections are evidence of another kind: silence may
be the network's fault, a refusal comes from a host that is up and says that no agent is there.
"""

import math
from typing import Final

from msgspec import Struct

from beiran.ids import NodeId

ACCUSERS_MAX: Final = 16  # no more count: Lifeguard's K is 3


class Suspicion(Struct):
    """One member's present suspicion, as one node keeps it.

    Attributes:
      accusers: who has told of it, in order, each once.
      refused: those of them whose connection was refused.
      minimum_s, maximum_s: bounds of the time to refute.
      confirmations: how many more accusers bring it down to the minimum.
      excused_s: time that does not count, because we ourselves were deaf or away.
      last_call: whether the suspect has been asked once more before the verdict.
      heard_at: when the suspect itself last spoke to us, as far as that was considered.
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
        """When the time to refute is over (seconds, as ``started_at``).

        Source: Lifeguard §IV-B; memberlist ``remainingSuspicionTime`` (suspicion.go).
        """
        timeout_s = self.minimum_s
        if self.confirmations > 0:
            share = math.log(len(self.accusers)) / math.log(self.confirmations + 1)
            timeout_s = self.maximum_s - share * (self.maximum_s - self.minimum_s)
        return self.started_at + max(self.minimum_s, timeout_s) + self.excused_s
