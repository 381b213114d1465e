"""What images are: asked for once by each node, of whoever spoke of them.

A node that is asked for what it does not know yet, but wants itself, remembers who asked and tells
them when it knows. So descriptions run down the same paths as the news of their images, and a
thousand nodes do not all ask the one that built the image.
"""

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.context import Context
from beiran.gossip.effects import ImageDescribed, ImageForgotten
from beiran.gossip.layered import Layered
from beiran.gossip.membership.member import Address
from beiran.gossip.messages import Described, Want
from beiran.gossip.possession.owner_log import Possession
from beiran.gossip.timers import WantDue
from beiran.ids import Digest, NodeId
from beiran.oci.images import ImageDescription

WANTS_A_DATAGRAM: Final = 32  # digests of 34 bytes: 1,100 bytes
WANTS_A_REQUEST: Final = 4096
DATAGRAM_TRIES: Final = 2  # then over a stream
PATIENCE_DOUBLINGS: Final = 6  # asked again after 0.3 s, and ever more rarely down to 20 s
ASKERS_MAX: Final = 64  # remembered per image; others ask again
ROOM_BYTES: Final = DATAGRAM_BYTES_MAX - 64

_encoder: Final = msgspec.msgpack.Encoder()


class Wanted(Struct):
    """A description that we lack.

    Attributes:
      source: who spoke of the image last.
      tries: how often it was asked for.
      ask_at: when to ask next; at once if it never was asked for.
      askers: who waits for us to know.
    """

    source: NodeId
    tries: int = 0
    ask_at: float = -math.inf
    askers: list[Address] = msgspec.field(default_factory=list)


class Descriptions:
    """All descriptions we have, and all that we want."""

    def __init__(self, context: Context, possession: Possession) -> None:
        self._context = context
        self._possession = possession
        self._known: MutableMapping[Digest, ImageDescription] = {}
        self._wanted: dict[Digest, Wanted] = {}
        self._requests: dict[int, list[Digest]] = {}

    def get(self, image: Digest) -> ImageDescription | None:
        """What an image is, or None if we do not know (yet)."""
        return self._known.get(image)

    def images(self) -> list[Digest]:
        """Those that we can describe."""
        return list(self._known)

    @property
    def wanted_count(self) -> int:
        """How many held images we cannot describe yet."""
        return len(self._wanted)

    def restore(self, descriptions: Iterable[ImageDescription]) -> None:
        """Take over what an earlier life of ours knew; call it once the holdings are restored."""
        self._known = {description.image: description for description in descriptions}
        self.drop_unheld(list(self._known))
        for image, holder in self._possession.held_by_others(self._context.members.own.node):
            self.want(image, holder)

    def share(self, descriptions: Mapping[Digest, ImageDescription]) -> None:
        """Begin with what many nodes know."""
        self._known = Layered(descriptions)

    def learn(self, description: ImageDescription) -> None:
        """An image was described to us, or by our own engine."""
        image = description.image
        wanted = self._wanted.pop(image, None)
        if image in self._known:
            return
        self._known[image] = description
        self._context.emit(ImageDescribed(description))
        for asker in wanted.askers if wanted else []:
            self.answer(asker, [image])

    def want(self, image: Digest, source: NodeId) -> None:
        """Somebody holds an image; find out what it is if we do not know."""
        if image not in self._known and image not in self._wanted:
            self._wanted[image] = Wanted(source)

    def drop_unheld(self, images: Iterable[Digest]) -> None:
        """Forget those of ``images`` that nobody holds any more."""
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
        """What has not come in time is asked of somebody else."""
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

    def answer(self, asker: Address, images: Sequence[Digest]) -> None:
        """Somebody wants descriptions: send what we know, remember them for what we want too."""
        own = self._context.members.own.node
        batch: list[ImageDescription] = []
        room = ROOM_BYTES
        too_large: list[Digest] = []
        for image in dict.fromkeys(images):
            description = self._known.get(image)
            if description is None:
                self._remember_asker(image, asker)
                continue
            size = len(_encoder.encode(description))
            if size > ROOM_BYTES - 34 * WANTS_A_DATAGRAM // 4:
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
        """The same over a stream, where there is room for all."""
        once = dict.fromkeys(images)
        known = tuple(self._known[image] for image in once if image in self._known)
        return Described(self._context.members.own.node, known)

    def on_described(self, message: Described) -> None:
        """Descriptions have come. Those we did not ask for are left alone."""
        for description in message.descriptions:
            if description.image in self._wanted:
                self.learn(description)
        too_large = [image for image in message.too_large if image in self._wanted]
        if too_large:
            self._ask_by_stream(message.sender, too_large)

    def on_reply(self, token: int, message: Described | None) -> bool:
        """A request's reply, or None for its failure. Returns whether it was one of ours."""
        if self._requests.pop(token, None) is None:
            return False
        if message is not None:
            self.on_described(message)
        return True

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
            part = list(images[start : start + WANTS_A_REQUEST])
            token = self._context.request(
                member.address, Want(own, tuple(part)), timeout_s=timeout_s
            )
            self._requests[token] = part
