"""Read the state of the gossip core back from the store when an agent starts."""

import msgspec
from msgspec import Struct
from sqlite_utils import Database

from beiran.gossip.membership.member import Address, Member
from beiran.ids import NodeId, node_id_text, parse_digest, parse_node_id
from beiran.oci.images import Holding, ImageDescription, LayerDescription, RepoDigest
from beiran.store.writes import STATUS_OF_STATE


class RestoredMember(Struct, frozen=True):
    """A peer and its holdings, as last known."""

    member: Member
    version: int
    holdings: tuple[Holding, ...]


class Restored(Struct, frozen=True):
    """The state as the agent last wrote it.

    Attributes:
      version: of this node's holdings. The next version must be above it.
      holdings: of this node.
      members: the other nodes, online or not.
      descriptions: of held images, as far as they are known.
    """

    version: int
    holdings: tuple[Holding, ...]
    members: tuple[RestoredMember, ...]
    descriptions: tuple[ImageDescription, ...]


def restore(db: Database, node: NodeId) -> Restored:
    """Read everything, within a transaction of the caller."""
    holdings = _holdings(db)
    uuid = node_id_text(node)
    members = []
    for row in db.execute(
        "SELECT id, uuid, name, address, port, generation, incarnation, state, holdings_version"
        " FROM nodes WHERE first_seen_at IS NOT NULL AND uuid != ? ORDER BY uuid",
        [uuid],
    ).fetchall():
        member = Member(
            node=parse_node_id(row[1]),
            name=row[2],
            address=Address(row[3], row[4]),
            generation=row[5],
            incarnation=row[6],
            status=STATUS_OF_STATE[row[7]],
        )
        members.append(RestoredMember(member, row[8], tuple(holdings.get(row[0], ()))))
    own_id, version = db.execute(
        "SELECT id, holdings_version FROM nodes WHERE uuid = ?", [uuid]
    ).fetchone()
    return Restored(
        version=version,
        holdings=tuple(holdings.get(own_id, ())),
        members=tuple(members),
        descriptions=_descriptions(db),
    )


def _holdings(db: Database) -> dict[int, list[Holding]]:
    """By row id of the node. Equal holdings of many nodes are one object."""
    images = {
        image: parse_digest(digest) for image, digest in db.execute("SELECT id, digest FROM images")
    }
    same: dict[tuple[int, str, str], Holding] = {}
    holdings: dict[int, list[Holding]] = {}
    for node, *what in db.execute(
        "SELECT node, image, tags, digests FROM holdings ORDER BY node, image"
    ):
        image, tags, digests = what
        holding = same.get((image, tags, digests))
        if holding is None:
            holding = same[image, tags, digests] = Holding(
                images[image],
                msgspec.json.decode(tags, type=tuple[str, ...]),
                tuple(map(_repo_digest, msgspec.json.decode(digests, type=list[str]))),
            )
        holdings.setdefault(node, []).append(holding)
    return holdings


def _repo_digest(text: str) -> RepoDigest:
    name, _, digest = text.rpartition("@")
    return RepoDigest(name, parse_digest(digest))


def _descriptions(db: Database) -> tuple[ImageDescription, ...]:
    layers: dict[int, list[LayerDescription]] = {}
    known: dict[tuple[int, int], LayerDescription] = {}
    digests = {
        layer: parse_digest(digest) for layer, digest in db.execute("SELECT id, digest FROM layers")
    }
    for image, layer, size_bytes in db.execute(
        "SELECT image, layer, size_bytes FROM image_layers ORDER BY image, position"
    ):
        description = known.get((layer, size_bytes))
        if description is None:
            description = known[layer, size_bytes] = LayerDescription(digests[layer], size_bytes)
        layers.setdefault(image, []).append(description)
    return tuple(
        ImageDescription(
            image=parse_digest(digest),
            os=os,
            architecture=architecture,
            created_at=created_at,
            layers=tuple(layers.get(image, ())),
        )
        for image, digest, os, architecture, created_at in db.execute(
            "SELECT id, digest, os, architecture, created_at FROM images"
            " WHERE size_bytes IS NOT NULL AND id IN (SELECT image FROM holdings)"
            " ORDER BY id"
        )
    )
