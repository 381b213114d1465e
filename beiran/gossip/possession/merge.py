"""What others tell of holdings and of pictures, taken over and passed on.

Deltas of holdings come as news and in push-pulls; what they lead to is the same. Small ones are
passed on as they are, large ones are announced by the version they lead to, and whole pictures not
at all: others find such differences by comparing hashes.
"""

from collections.abc import Sequence

from beiran.gossip.config import COUNT_CREDIBLE_MAX
from beiran.gossip.context import Context
from beiran.gossip.dissemination import NEWS_BYTES_MAX, Dissemination
from beiran.gossip.effects import HoldingsChanged
from beiran.gossip.membership.member import Status
from beiran.gossip.membership.suspicion_protocol import Verdicts
from beiran.gossip.messages import (
    NAMES_MAX,
    TAG_CHARACTERS_MAX,
    Ahead,
    Alive,
    Delta,
    NewsItem,
    SyncExchange,
    SyncVector,
)
from beiran.gossip.possession.image_descriptions import Descriptions
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.possession.push_pull import AntiEntropy, unpack_deltas
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding
from beiran.sansio.wire import packed_bytes

OUTGROW_BY_MAX = 2**20
"""How far past a version of ours that others know we go at most, at random. That version may not
have been the last: one more would perhaps be what somebody else holds for our next."""
STRANGER_SYNC_S = 0.03  # somebody knows more than we do: find out what, but not all at one instant


class Reconciliation:
    """Brings our picture and others' together."""

    def __init__(
        self,
        context: Context,
        possession: Possession,
        dissemination: Dissemination,
        descriptions: Descriptions,
        anti_entropy: AntiEntropy,
        verdicts: Verdicts,
    ) -> None:
        self._context = context
        self._members = context.members
        self._possession = possession
        self._dissemination = dissemination
        self._descriptions = descriptions
        self._anti_entropy = anti_entropy
        self._verdicts = verdicts

    # --- holdings as news -------------------------------------------------------------------

    def change_own(self, holdings: Sequence[Holding], released: Sequence[Digest]) -> None:
        """Our own engine holds other images, or under other names."""
        own = self._members.own.node
        holdings = [_tellable(holding) for holding in holdings]
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
        self._tell_deltas(deltas, None)

    def _tell_deltas(self, deltas: Sequence[Delta], heard_from: NodeId | None) -> None:
        """Push deltas, or where they are too large announce the versions they lead to."""
        items = [self._context.codec.encode_news(delta) for delta in deltas]
        sizes = [packed_bytes(item) for item in items]
        room = self._context.config.delta_datagrams_max * NEWS_BYTES_MAX
        if sum(sizes) <= room and max(sizes) <= NEWS_BYTES_MAX:
            for delta, item in zip(deltas, items, strict=True):
                key = ("delta", delta.owner, delta.version)
                self._dissemination.tell(key, item, heard_from=heard_from)
            return
        newest = {delta.owner: delta.version for delta in deltas}
        if len(newest) > self._context.config.eager_sync_max:
            return  # a whole picture: others find the difference themselves
        for owner, version in newest.items():
            item = self._context.codec.encode_news(Ahead(owner, version))
            key = ("ahead", owner, version)
            self._dissemination.tell(key, item, subject=("ahead", owner), heard_from=heard_from)

    def on_delta(self, delta: Delta, item: NewsItem, heard_from: NodeId) -> None:
        """Somebody tells what changed in an owner's holdings."""
        if delta.owner == self._members.own.node:
            return
        if delta.owner not in self._members or self._possession.is_gap(delta):
            self._fetch_from(heard_from)
        elif self._apply(delta, heard_from):
            key = ("delta", delta.owner, delta.version)
            self._dissemination.tell(key, item, heard_from=heard_from)
        else:
            self._dissemination.echo(("delta", delta.owner, delta.version), heard_from)

    def on_ahead(self, ahead: Ahead, heard_from: NodeId) -> None:
        """Somebody knows a later version of an owner's holdings than fits into datagrams."""
        key = ("ahead", ahead.owner, ahead.version)
        if ahead.owner == self._members.own.node or ahead.version <= self._possession.version(
            ahead.owner
        ):
            self._dissemination.echo(key, heard_from)
            return
        self._fetch_from(heard_from)

    def _fetch_from(self, node: NodeId) -> None:
        member = self._members.get(node)
        if member is not None:
            self._anti_entropy.soon(member.address, node, within_s=STRANGER_SYNC_S)

    def _apply(self, delta: Delta, heard_from: NodeId) -> bool:
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

    # --- push-pull --------------------------------------------------------------------------

    def on_vector(self, token: int, message: SyncVector) -> None:
        """The other side of our push-pull has told its entries: go on with what they call for."""
        self._verdicts.hear(message.sender.node)
        self.on_alive_directly(message.sender)
        for entry in message.entries:
            if entry.node != self._members.own.node:
                continue
            self._outgrow(entry.version)
            status = Status(entry.status)
            if status in (Status.DOWN, Status.LEFT):
                self._verdicts.refute(entry.generation, entry.incarnation)
        self._anti_entropy.continue_with(token, message)

    def apply_exchange(self, message: SyncExchange) -> None:
        """Take over what the other side pushed."""
        deltas = unpack_deltas(message)
        self._verdicts.hear(message.sender)
        eager = len(message.members) <= self._context.config.eager_sync_max
        for fact in message.members:
            self._verdicts.on_sync_member(fact, message.sender, eager=eager)
        applied = []
        for delta in deltas:
            if delta.owner == self._members.own.node:
                self._outgrow(delta.version)
            elif delta.owner in self._members and self._apply(delta, message.sender):
                applied.append(delta)
        if applied:
            self._tell_deltas(applied, message.sender)

    def _outgrow(self, version: int) -> None:
        """Others know a later version of our holdings than we do (our database was lost, and the
        clock went back): go past it, so that they take over what is true now."""
        own = self._members.own.node
        if version > COUNT_CREDIBLE_MAX:
            self._context.counters["incredible_claims"] += 1
        elif version > self._possession.version(own):
            past = version + 1 + self._context.random.randrange(OUTGROW_BY_MAX)
            self._possession.begin(own, past)
            self._members.set_version(own, past)
            self._context.emit(HoldingsChanged(own, past))

    def on_alive_directly(self, alive: Alive) -> None:
        """A member speaks for itself, to many or to us: there is no need to push it on."""
        item = self._context.codec.encode_news(alive)
        self._verdicts.on_alive(alive, item, alive.node, eager=False)


def _tellable(holding: Holding) -> Holding:
    """A holding with as many names as the wire has room for: peers would refuse it otherwise,
    and with it all else that they are told in the same message."""
    tags = [tag for tag in holding.tags if len(tag) <= TAG_CHARACTERS_MAX]
    return Holding(holding.image, tuple(tags[:NAMES_MAX]), holding.digests[:NAMES_MAX])
