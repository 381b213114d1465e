"""The rows of ``/transfers``: which blob moves now, from or to which node, and how fast."""

from collections.abc import Mapping
from typing import Final

from beiran.api.models import Transfer
from beiran.gossip.membership.member_table import MemberTable
from beiran.ids import NodeId, digest_text, node_id_text
from beiran.transfer.blob_download import BlobDownload
from beiran.transfer.local_blobs import LocalBlobs
from beiran.transfer.swarm_driver import SwarmDriver
from beiran.transfer.uploads import Served, Uploads

# The counters that ``TransferRows.counters`` returns, each with its help for ``/metrics``.
BLOB_COUNTERS: Final[Mapping[str, str]] = {
    "blob_bytes_from_cache": "Bytes of blobs read from the cache.",
    "blob_bytes_from_origin": "Bytes of blobs received from registries.",
    "blob_bytes_from_peers": "Bytes of blobs received from other nodes.",
    "blob_bytes_served": "Bytes of blobs sent to other nodes.",
    "blob_bytes_wasted": "Bytes of blobs received and discarded, or received twice.",
}


class TransferRows:
    """Lists this node's transfers, and counts the bytes of all since the start."""

    def __init__(
        self, driver: SwarmDriver, uploads: Uploads, local: LocalBlobs, members: MemberTable
    ) -> None:
        self._driver: Final = driver
        self._uploads: Final = uploads
        self._local: Final = local
        self._members: Final = members

    def rows(self) -> list[Transfer]:
        """One for each blob and each node or registry that it comes from or goes to."""
        incoming = [row for each in self._driver.downloads.values() for row in self._incoming(each)]
        return [*incoming, *map(self._outgoing, self._uploads.served())]

    def counters(self) -> dict[str, int]:
        """Bytes of blobs since the start, by where they came from or went to."""
        counted = self._driver.counters
        return {
            "blob_bytes_from_cache": self._local.bytes_from_cache,
            "blob_bytes_from_origin": counted.origin_bytes_received,
            "blob_bytes_from_peers": counted.peer_bytes_received,
            "blob_bytes_served": self._uploads.bytes_served,
            "blob_bytes_wasted": counted.wasted_bytes + self._driver.wasted_now_bytes(),
        }

    def _incoming(self, download: BlobDownload) -> list[Transfer]:
        progress = self._driver.node.progress(download.digest)
        if progress is None:
            return []
        sources: list[tuple[NodeId | None, int]] = list(progress.per_peer_bytes.items())
        if progress.from_origin_bytes:
            sources.append((None, progress.from_origin_bytes))
        rows = []
        for node, bytes_done in sources:
            name = download.name.registry if node is None else self._name(node)
            uuid = None if node is None else node_id_text(node)
            rows.append(
                Transfer(
                    id=f"in-{download.digest.hex()[:16]}-{uuid or name}",
                    digest=digest_text(download.digest),
                    direction="in",
                    node=uuid,
                    name=name,
                    bytes_done=bytes_done,
                    bytes_total=download.size_bytes,
                    rate_bytes_per_s=round(download.rate(node)),
                    started_at=download.started_at,
                    reference=str(download.name),
                )
            )
        return rows

    def _outgoing(self, served: Served) -> Transfer:
        uuid = node_id_text(served.node)
        return Transfer(
            id=f"out-{served.digest.hex()[:16]}-{uuid}",
            digest=digest_text(served.digest),
            direction="out",
            node=uuid,
            name=self._name(served.node),
            bytes_done=served.bytes_sent,
            bytes_total=None,
            rate_bytes_per_s=round(served.rate_now()),
            started_at=served.started_at,
            reference=None,
        )

    def _name(self, node: NodeId) -> str:
        member = self._members.get(node)
        return member.name if member is not None else node_id_text(node)
