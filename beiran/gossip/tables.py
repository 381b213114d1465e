"""What a core knows when it begins, as plain tables: its own state, and that of an earlier life.

The agent fills them from its database (``Tables.restored``). A simulation of thousands of cores
hands in mappings that lie over one common base, since each core's own dicts would not fit into
memory.
"""

from collections.abc import Iterable, MutableMapping
from typing import Self

from msgspec import Struct, field

from beiran.gossip.membership.member import Member
from beiran.gossip.possession.owner_log import OwnerLog, Possession
from beiran.gossip.possession.state_hash import entry_hash
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription


class Remembered(Struct, frozen=True):
    """A member as an earlier life knew it: its address, and its holdings at a version."""

    member: Member
    version: int
    holdings: tuple[Holding, ...]


class Tables(Struct, kw_only=True):
    """Handed to ``GossipNode``, which owns them from then on.

    Attributes:
      members: this node among them.
      versions: of each owner's holdings.
      ring: the IDs of the members that are online, sorted.
      state_hash: of all that are online (``possession.state_hash``).
      logs: each owner's holdings. holders: by image, how many owners hold it.
      descriptions: of the images held, as far as they are known.
      remembered: members of an earlier life, that have not shown themselves in this one.
    """

    members: MutableMapping[NodeId, Member]
    versions: MutableMapping[NodeId, int]
    ring: tuple[NodeId, ...]
    state_hash: int
    logs: MutableMapping[NodeId, OwnerLog] = field(default_factory=dict)
    holders: MutableMapping[Digest, int] = field(default_factory=dict)
    descriptions: MutableMapping[Digest, ImageDescription] = field(default_factory=dict)
    remembered: MutableMapping[NodeId, Member] = field(default_factory=dict)

    @classmethod
    def restored(
        cls,
        own: Member,
        version: int,
        *,
        holdings: Iterable[Holding] = (),
        remembered: Iterable[Remembered] = (),
        descriptions: Iterable[ImageDescription] = (),
    ) -> Self:
        """The tables of a node that starts again, or for the first time.

        Args:
          version: of our holdings when we last ran, or the wall clock's milliseconds, whichever
            is larger; never 0. Peers that know more than our database are contradicted so.
          holdings: ours. remembered: all others'. descriptions: of images that were held.
        """
        tables = cls(
            members={own.node: own},
            versions={own.node: version},
            ring=(own.node,),
            state_hash=entry_hash(own, version),
            descriptions={description.image: description for description in descriptions},
        )
        possession = Possession(tables.logs, tables.holders)
        possession.restore(own.node, version, holdings)
        for old in remembered:
            node = old.member.node
            if node != own.node:
                possession.restore(node, old.version, old.holdings)
                tables.versions[node] = old.version
                tables.remembered[node] = old.member
        return tables
