"""Descriptions of images: each node requests one once, from the member that sent the holding.

A node that lacks a requested description remembers the asker, and answers when it has it. So
descriptions take the same paths as the news of their images, and a thousand nodes do not all ask
the one that built the image.
"""

import math
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final

from msgspec import Struct, field

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.context import Context
from beiran.gossip.effects import ImageDescribed, ImageForgotten
from beiran.gossip.membership.member import Address
from beiran.gossip.messages import Described, Want
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.requests import DescriptionRequest
from beiran.gossip.timers import WantDue
from beiran.ids import Digest, NodeId
from beiran.oci.images import ImageDescription
from beiran.sansio.wire import pack

WANTS_A_DATAGRAM: Final = 32  # digests of 34 bytes: 1,100 bytes
WANTS_A_REQUEST: Final = 4096  # the bound of ``Want.images``
DATAGRAM_TRIES: Final = 2  # then over TCP: large answers may not get through this network
PATIENCE_DOUBLINGS: Final = 6  # asked again after 0.3 s, and ever more rarely down to 20 s
ASKERS_MAX: Final = 64  # remembered per image, a bound on memory; others ask again
ROOM_BYTES: Final = DATAGRAM_BYTES_MAX - 64  # the header and the other fields take 60
TOO_LARGE_BYTES: Final = ROOM_BYTES - 34 * WANTS_A_DATAGRAM // 4
"""A larger description is asked for over TCP; a quarter of a datagram's ``too_large`` fits beside
one that is not."""


class Wanted(Struct):
    """A description that this node lacks.

    Attributes:
      source: the member to ask.
      tries: how often it was asked for.
      ask_at: when to ask next; at once if it never was asked for.
      askers: agents that wait for this node to know.
    """

    source: NodeId
    tries: int = 0
    ask_at: float = -math.inf
    askers: list[Address] = field(default_factory=list)


class Descriptions:
    """The descriptions that this node has, and those that it wants.

    Args:
      known: by image, those that it begins with; images that no owner holds are dropped from it.
    """

    def __init__(
        self,
        context: Context,
        possession: Possession,
        known: MutableMapping[Digest, ImageDescription],
    ) -> None:
        self._context = context
        self._possession = possession
        self._known = known
        self._wanted: dict[Digest, Wanted] = {}
        self.drop_unheld(list(known))
        if any(image not in known for image in possession.images()):
            for image, holder in possession.held_by_others(context.members.own.node):
                self.want(image, holder)

    def get(self, image: Digest) -> ImageDescription | None:
        """The description of an image, or None if it is not known (yet)."""
        return self._known.get(image)

    def images(self) -> list[Digest]:
        """The images whose descriptions are known."""
        return list(self._known)

    @property
    def wanted_count(self) -> int:
        """How many held images have no known description yet."""
        return len(self._wanted)

    def learn(self, description: ImageDescription) -> None:
        """A peer has described an image, or this host's engine has."""
        image = description.image
        wanted = self._wanted.pop(image, None)
        if image in self._known:
            return
        self._known[image] = description
        self._context.emit(ImageDescribed(description))
        for asker in wanted.askers if wanted else []:
            self._answer(asker, [image])

    def want(self, image: Digest, source: NodeId) -> None:
        """Request an image's description from ``source``, which sent its holding, if unknown."""
        if image not in self._known and image not in self._wanted:
            self._wanted[image] = Wanted(source)

    def drop_unheld(self, images: Iterable[Digest]) -> None:
        """Forget those of ``images`` that no known owner holds any more."""
        for image in images:
            if self._possession.is_held(image):
                continue
            self._wanted.pop(image, None)
            if self._known.pop(image, None) is not None:
                self._context.emit(ImageForgotten(image))

    def flush(self) -> None:
        """Ask for what is newly wanted. Called at the end of every input."""
        if self._wanted and any(not wanted.tries for wanted in self._wanted.values()):
            self._ask([i for i, wanted in self._wanted.items() if not wanted.tries])

    def ask_again(self) -> None:
        """Ask other holders for what has not come in time."""
        members = self._context.members
        due = [i for i, wanted in self._wanted.items() if wanted.ask_at <= self._context.now]
        for image in due:
            wanted = self._wanted[image]
            holders = [
                node
                for node in self._possession.holders(image)
                if (member := members.get(node)) and member.status.online
            ]
            if holders:
                wanted.source = self._context.random.choice(holders)
        self._ask(due)

    def on_want(self, want: Want, source: Address) -> None:
        """A node wants descriptions."""
        member = self._context.members.get(want.sender)
        if member is not None and member.address == source:  # else the source may be forged
            self._answer(source, want.images)

    def _answer(self, asker: Address, images: Sequence[Digest]) -> None:
        """Send the descriptions that are known; remember the asker for those that are wanted."""
        own = self._context.members.own.node
        batch: list[ImageDescription] = []
        room = ROOM_BYTES
        too_large: list[Digest] = []
        for image in dict.fromkeys(images):
            description = self._known.get(image)
            if description is None:
                self._remember_asker(image, asker)
                continue
            size = len(pack(description))
            if size > TOO_LARGE_BYTES:
                too_large.append(image)
                continue
            if size > room:
                self._context.send(asker, Described(own, tuple(batch)))
                batch, room = [], ROOM_BYTES
            batch.append(description)
            room -= size
        if batch:
            self._context.send(asker, Described(own, tuple(batch)))
        if too_large:
            self._context.send(asker, Described(own, (), tuple(too_large[:WANTS_A_DATAGRAM])))

    def _remember_asker(self, image: Digest, asker: Address) -> None:
        wanted = self._wanted.get(image)
        askers = wanted.askers if wanted is not None else []
        if asker not in askers and len(askers) < ASKERS_MAX:
            askers.append(asker)

    def answer_stream(self, images: Sequence[Digest]) -> Described:
        """The reply to a ``Want`` over TCP, where there is room for all that is known."""
        once = dict.fromkeys(images)
        known = tuple(self._known[image] for image in once if image in self._known)
        return Described(self._context.members.own.node, known)

    def on_described(self, message: Described) -> None:
        """Descriptions have come. Those that are not wanted are ignored."""
        for description in message.descriptions:
            if description.image in self._wanted:
                self.learn(description)
        too_large = [image for image in message.too_large if image in self._wanted]
        if too_large:
            self._ask_by_stream(message.sender, too_large)

    def _ask(self, images: Sequence[Digest]) -> None:
        context = self._context
        by_source: dict[NodeId, list[Digest]] = {}
        for image in images:
            wanted = self._wanted[image]
            patience = context.config.want_retry_s * 2 ** min(wanted.tries, PATIENCE_DOUBLINGS)
            wanted.ask_at = context.now + patience
            wanted.tries += 1
            by_source.setdefault(wanted.source, []).append(image)
        for source, group in by_source.items():
            member = context.members.get(source)
            if member is None or not member.status.online:
                continue
            tries = min(self._wanted[image].tries for image in group)
            if tries > DATAGRAM_TRIES or len(group) > WANTS_A_DATAGRAM:
                self._ask_by_stream(source, group)
            else:
                own = context.members.own.node
                context.send(member.address, Want(own, tuple(group)))
        if self._wanted:
            first = min(wanted.ask_at for wanted in self._wanted.values())
            context.set_timer(WantDue(), first - context.now)

    def _ask_by_stream(self, source: NodeId, images: Sequence[Digest]) -> None:
        member = self._context.members.get(source)
        if member is None:
            return
        own = self._context.members.own.node
        timeout_s = self._context.config.request_timeout_s
        for start in range(0, len(images), WANTS_A_REQUEST):
            part = tuple(images[start : start + WANTS_A_REQUEST])
            self._context.request(
                member.address, Want(own, part), DescriptionRequest(), timeout_s=timeout_s
            )
