"""Changes of holdings: this node's own, and those that others send.

Deltas come as news and in push-pulls; what they lead to is the same. Small ones are passed on as
they are. Large ones are announced by the version that they lead to (``Ahead``). Whole states are
not passed on at all: other nodes find such differences by their state hashes.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from beiran.gossip.config import COUNT_CREDIBLE_MAX
from beiran.gossip.context import Context
from beiran.gossip.dissemination import NEWS_BYTES_MAX, Dissemination
from beiran.gossip.effects import HoldingsChanged
from beiran.gossip.messages import NAMES_MAX, TAG_CHARACTERS_MAX, Ahead, Delta, NewsItem
from beiran.gossip.possession.image_descriptions import Descriptions
from beiran.gossip.possession.owner_log import Possession
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding
from beiran.sansio.wire import packed_bytes

OUTGROW_BY_MAX: Final = 2**20
"""How far past a version of ours that others know we go at most, at random. That version may not
have been the last: one more could be the one that another node holds for our next. Simulations
found that (docs/explanation/simulations.md, "Explore")."""


class Holdings:
    """Changes what is known of owners' holdings, and passes it on."""

    def __init__(
        self,
        context: Context,
        possession: Possession,
        dissemination: Dissemination,
        descriptions: Descriptions,
    ) -> None:
        self._context = context
        self._members = context.members
        self._possession = possession
        self._dissemination = dissemination
        self._descriptions = descriptions

    # --- our own ----------------------------------------------------------------------------

    def change_own(self, holdings: Sequence[Holding], released: Sequence[Digest]) -> None:
        """The engine of this host holds other images, or under other names."""
        own = self._members.own.node
        holdings = [_within_limits(holding) for holding in holdings]
        deltas = self._possession.change(own, holdings, released)
        if not deltas:
            return
        version = deltas[-1].version
        self._members.set_version(own, version)
        by_image = {holding.image: holding for holding in holdings}
        self._context.emit(
            HoldingsChanged(
                own,
                version,
                tuple(by_image[held.image] for delta in deltas for held in delta.held),
                tuple(image for delta in deltas for image in delta.released),
            )
        )
        self.spread(deltas, None)

    def outgrow(self, version: int) -> None:
        """Others know a later version of our holdings than we do: go past it.

        So they take over what is true now. It happens where our database was lost and the clock
        went back.
        """
        own = self._members.own.node
        if version > COUNT_CREDIBLE_MAX:
            self._context.counters["incredible_claims"] += 1
        elif version > self._possession.version(own):
            past = version + 1 + self._context.random.randrange(OUTGROW_BY_MAX)
            self._possession.begin(own, past)
            self._members.set_version(own, past)
            self._context.emit(HoldingsChanged(own, past))

    # --- others' ----------------------------------------------------------------------------

    def on_delta(self, delta: Delta, item: NewsItem, heard_from: NodeId) -> bool:
        """A change of an owner's holdings has come as news.

        Returns: whether something before it is missing, which its sender has.
        """
        if delta.owner == self._members.own.node:
            return False
        if delta.owner not in self._members or self._possession.is_gap(delta):
            return True
        if self.apply(delta, heard_from):
            self._dissemination.spread(delta, item, heard_from=heard_from)
        else:
            self._dissemination.on_echo(delta, heard_from)
        return False

    def on_ahead(self, ahead: Ahead, heard_from: NodeId) -> bool:
        """A later version of an owner's holdings was announced. Returns whether to fetch it."""
        owner = ahead.owner
        if owner != self._members.own.node and ahead.version > self._possession.version(owner):
            return True
        self._dissemination.on_echo(ahead, heard_from)
        return False

    def apply(self, delta: Delta, heard_from: NodeId) -> bool:
        """Apply a delta, with all that follows from it. Returns whether it was new."""
        change = self._possession.apply(delta)
        if change is None:
            return False
        self._members.set_version(delta.owner, delta.version)
        for holding in change.held:
            self._descriptions.want(holding.image, heard_from)
        self._context.emit(
            HoldingsChanged(delta.owner, delta.version, change.held, change.released, change.reset)
        )
        self._descriptions.drop_unheld(change.released)
        return True

    def spread(self, deltas: Sequence[Delta], heard_from: NodeId | None) -> None:
        """Push deltas, or where they are too large announce the versions that they lead to."""
        config = self._context.config
        items = [self._context.codec.encode_news(delta) for delta in deltas]
        sizes = [packed_bytes(item) for item in items]
        room = config.delta_datagrams_max * NEWS_BYTES_MAX
        if sum(sizes) <= room and max(sizes) <= NEWS_BYTES_MAX:
            for delta, item in zip(deltas, items, strict=True):
                self._dissemination.spread(delta, item, heard_from=heard_from)
            return
        newest = {delta.owner: delta.version for delta in deltas}
        if len(newest) > config.eager_sync_max:
            return  # a whole state
        for owner, version in newest.items():
            self._dissemination.spread(Ahead(owner, version), heard_from=heard_from)

    def forget(self, owners: Iterable[NodeId]) -> None:
        """Keep nothing of owners that are forgotten members."""
        for owner in owners:
            self._descriptions.drop_unheld(self._possession.forget(owner))


def _within_limits(holding: Holding) -> Holding:
    """A holding with as many names as the wire has room for.

    Peers would refuse it otherwise, and with it all else in the same message.
    """
    tags = [tag for tag in holding.tags if len(tag) <= TAG_CHARACTERS_MAX]
    return Holding(holding.image, tuple(tags[:NAMES_MAX]), holding.digests[:NAMES_MAX])
