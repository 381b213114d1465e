"""Who may write which range of a blob in flight.

A fetch claims a range before it writes there, and no one else can claim it meanwhile, so two
fetches of the same range never mix their bytes. A fetch that has received a range and found it
right takes it over from a slower one, whose claim is *lost*: what that one writes from then on is
dropped.
"""


class Claim:
    """The right to write a range.

    Attributes:
      writing: a thread is writing with it now.
      lost: another fetch had these bytes first; nothing is written with this claim any more.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.writing = False
        self.lost = False


class Claims:
    """The claims on one blob."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []

    def take(self, start: int, end: int) -> Claim | None:
        """Claim a range; None if another claim overlaps it."""
        if self.overlapping(start, end):
            return None
        claim = Claim(start, end)
        self._claims.append(claim)
        return claim

    def give_back(self, claim: Claim) -> None:
        """End a claim; does nothing the second time."""
        if claim in self._claims:
            self._claims.remove(claim)

    def overlapping(self, start: int, end: int) -> list[Claim]:
        """The claims that have any byte of a range."""
        return [claim for claim in self._claims if claim.start < end and start < claim.end]

    def lose_all(self) -> None:
        """Nothing is written to the blob any more."""
        for claim in self._claims:
            claim.lost = True
