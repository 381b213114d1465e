"""What is moving now, from whom to whom: ``/transfers``, and the counters of bytes."""

from typing import Final

import trio
from msgspec import Struct

from beiran.api.models import Transfer
from beiran.gossip.membership.member_table import Membership
from beiran.ids import Digest, NodeId, digest_text, node_id_text
from beiran.transfer.downloads import Transfers
from beiran.transfer.swarm_driver import SwarmDriver
from beiran.transfer.uploads import Uploads

RATE_S: Final = 1.0
"""Rates are told of at least so long a time."""


class _Seen(Struct):
    """How far a transfer was, some time ago."""

    at: float
    bytes_done: int
    rate: float = 0.0


class Traffic:
    """Knows all transfers of this node."""

    def __init__(
        self,
        transfers: Transfers,
        uploads: Uploads,
        driver: SwarmDriver,
        members: Membership,
    ) -> None:
        self._transfers: Final = transfers
        self._uploads: Final = uploads
        self._driver: Final = driver
        self._members: Final = members
        self._seen: dict[str, _Seen] = {}

    def rows(self) -> list[Transfer]:
        """One for each blob and each node or registry that it comes from or goes to."""
        rows = [*self._incoming(), *self._outgoing()]
        kept = {row.id for row in rows}
        self._seen = {key: seen for key, seen in self._seen.items() if key in kept}
        return rows

    def counters(self) -> dict[str, int]:
        """Bytes of blobs since the start, by where they came from or went to."""
        counted = self._driver.counters
        return {
            "blob_bytes_from_cache": self._transfers.bytes_from_cache,
            "blob_bytes_from_origin": counted.origin_bytes_received,
            "blob_bytes_from_peers": counted.peer_bytes_received,
            "blob_bytes_served": self._uploads.bytes_served,
            "blob_bytes_wasted": counted.wasted_bytes + self._driver.wasted_now_bytes(),
        }

    def _incoming(self) -> list[Transfer]:
        rows = []
        for transfer in self._transfers.going:
            wanted = transfer.wanted
            progress = self._transfers.progress(wanted.digest)
            if progress is None:
                continue
            froms: list[tuple[NodeId | None, int]] = list(progress.per_peer_bytes.items())
            if progress.from_origin_bytes:
                froms.append((None, progress.from_origin_bytes))
            for node, bytes_done in froms:
                name = wanted.name.registry if node is None else self._name(node)
                rows.append(
                    self._row(
                        wanted.digest,
                        "in",
                        node,
                        name,
                        bytes_done,
                        wanted.size_bytes,
                        transfer.started_at,
                        str(wanted.name),
                    )
                )
        return rows

    def _outgoing(self) -> list[Transfer]:
        return [
            self._row(
                served.digest,
                "out",
                served.node,
                self._name(served.node),
                served.bytes_sent,
                None,
                served.started_at,
                None,
            )
            for served in self._uploads.served()
        ]

    def _row(
        self,
        digest: Digest,
        direction: str,
        node: NodeId | None,
        name: str,
        bytes_done: int,
        bytes_total: int | None,
        started_at: str,
        reference: str | None,
    ) -> Transfer:
        uuid = None if node is None else node_id_text(node)
        key = f"{direction}-{digest.hex()[:16]}-{uuid or name}"
        return Transfer(
            id=key,
            digest=digest_text(digest),
            direction="in" if direction == "in" else "out",
            node=uuid,
            name=name,
            bytes_done=bytes_done,
            bytes_total=bytes_total,
            rate_bytes_per_s=round(self._rate(key, bytes_done)),
            started_at=started_at,
            reference=reference,
        )

    def _rate(self, key: str, bytes_done: int) -> float:
        now = trio.current_time()
        seen = self._seen.get(key)
        if seen is None:
            self._seen[key] = _Seen(now, bytes_done)
            return 0.0
        passed_s = now - seen.at
        if passed_s >= RATE_S:
            seen.rate = (bytes_done - seen.bytes_done) / passed_s
            seen.at, seen.bytes_done = now, bytes_done
        return seen.rate

    def _name(self, node: NodeId) -> str:
        member = self._members.get(node)
        return member.name if member is not None else node_id_text(node)
