"""The picture that many nodes of one process begin with, kept once for all of them.

For simulations: ten thousand nodes that each knew the others in tables of their own would take
tens of gigabytes and hours to come together. A node that is handed a ``CommonPicture`` behaves as
one that has come to know it all by itself, long ago.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from msgspec import Struct

from beiran.gossip.membership.member import Member
from beiran.gossip.possession.owner_log import OwnerLog
from beiran.gossip.possession.state_hash import PICTURE_MODULUS, entry_hash
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription


class CommonPicture(Struct, frozen=True):
    """Who is online and who holds what, as all see it. Nothing of it is changed any more.

    Attributes:
      ring: all IDs, sorted.
      holders: by image, how many hold it.
      picture: its hash.
    """

    members: dict[NodeId, Member]
    versions: dict[NodeId, int]
    ring: list[NodeId]
    logs: dict[NodeId, OwnerLog]
    holders: dict[Digest, int]
    descriptions: dict[Digest, ImageDescription]
    picture: int

    @classmethod
    def of(
        cls,
        owners: Iterable[tuple[Member, int, Sequence[Holding]]],
        descriptions: Iterable[ImageDescription],
    ) -> Self:
        """Put it together.

        Args:
          owners: members that are online, each with the version of its holdings and these.
          descriptions: of what they hold; others are left out.
        """
        members: dict[NodeId, Member] = {}
        versions: dict[NodeId, int] = {}
        holders: dict[Digest, int] = {}
        logs: dict[NodeId, OwnerLog] = {}
        picture = 0
        for member, version, holdings in owners:
            members[member.node] = member
            versions[member.node] = version
            held = {holding.image: (version, holding) for holding in holdings}
            logs[member.node] = OwnerLog(version, version, held, common=True)
            picture = (picture + entry_hash(member, version)) % PICTURE_MODULUS
            for holding in holdings:
                holders[holding.image] = holders.get(holding.image, 0) + 1
        return cls(
            members=members,
            versions=versions,
            ring=sorted(members),
            logs=logs,
            holders=holders,
            descriptions={d.image: d for d in descriptions if d.image in holders},
            picture=picture,
        )
