"""The routes that pull, have other nodes pull, and list transfers: ``docs/reference/api.md``."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlencode

import msgspec
import trio

from beiran.agent.api.parameters import check_names, read_boolean, read_node_id
from beiran.api.models import Change, Prefetch, Prefetching, PullDone, Transfer
from beiran.errors import ApiError, BadRequest, RemoteProtocolError
from beiran.gossip.membership.member import Address
from beiran.gossip.membership.member_table import MemberTable
from beiran.http.description import (
    IMAGE_REFERENCE,
    PLATFORM,
    UUID,
    Parameter,
    Schema,
    array_of,
    error,
    json_answer,
    object_of,
)
from beiran.http.messages import Request, Response, Route, SendMessage, json_response
from beiran.ids import NodeId, node_id_text
from beiran.oci.references import Reference, matches_any
from beiran.peers.peer_client import PeerClient, PeerDeclined, PeerRefused, PeerUnreachable
from beiran.pull.jobs import PullJobs, read_key
from beiran.transfer.transfer_rows import TransferRows

# Chosen, not measured, like all of these.
FOLLOW_S: Final = 0.5  # between two looks at the transfers for a follower: a bar moves smoothly
PREFETCH_TIMEOUT_S: Final = 10.0  # for the answer of one node; it only starts the pull
PREFETCHES_AT_ONCE: Final = 16  # nodes asked at the same time
PREFETCHES_MAX: Final = 64  # under way here on the orders of other nodes; more are refused
PREFETCH_ANSWER_BYTES_MAX: Final = 16 * 1024  # one state, or one error
HERE_PATH: Final = "/prefetch/here"

# The descriptions of the routes, for the OpenAPI document.
REFERENCE: Final = Parameter(
    "reference", IMAGE_REFERENCE, "The image, of any registry.", required=True
)
PLATFORM_PARAMETER: Final = Parameter(
    "platform", PLATFORM, "Such as `linux/arm64`. The default is the host's platform."
)
PULL_PARAMETERS: Final = (
    REFERENCE,
    Parameter("from", UUID, "Pull the image that the node with this UUID has under that name."),
    PLATFORM_PARAMETER,
)
PULL_ERRORS: Final = (
    error(403, "The registry does not allow it."),
    error(404, "There is no such image."),
    error(429, "The registry limits its requests. Ask again later."),
    error(500, "The bytes received, or the files of this node, are damaged."),
    error(502, "The engine refused the image, or the registry's answer cannot be used."),
    error(503, "No node that has the image and no registry can be reached."),
)
PREFETCH_BODY: Final[Schema] = {
    "type": "object",
    "properties": {
        "reference": IMAGE_REFERENCE,
        "nodes": {"anyOf": [array_of(UUID), {"const": "all"}]},
        "platform": {"anyOf": [PLATFORM, {"type": "null"}]},
    },
    "required": ["reference", "nodes"],
}

_log: Final = logging.getLogger(__name__)


class PullRoutes:
    """``/pulls``, ``/prefetch`` and ``/transfers``.

    Args:
      is_member: whether an online member of the cluster has this IP address.
      nursery: runs the prefetches that other nodes order.
      allowed: patterns (``*``) of repositories that other nodes may have this node pull.
    """

    def __init__(
        self,
        pulls: PullJobs,
        transfers: TransferRows,
        peers: PeerClient,
        members: MemberTable,
        nursery: trio.Nursery,
        *,
        is_member: Callable[[str], bool],
        allowed: Sequence[str],
    ) -> None:
        self._pulls: Final = pulls
        self._transfers: Final = transfers
        self._peers: Final = peers
        self._members: Final = members
        self._is_member: Final = is_member
        self._allowed: Final = allowed
        self._prefetching = 0
        self._nursery: Final = nursery

    def routes(self) -> list[Route]:
        """Pulls begin on the unix socket only; every listener answers ``/transfers``."""
        return [
            Route(
                method="POST",
                pattern="/pulls",
                handler=self._pull,
                listeners=("unix",),
                summary="Pull an image into this host's engine",
                parameters=PULL_PARAMETERS,
                answers=(json_answer("The engine has the image.", PullDone), *PULL_ERRORS),
            ),
            Route(
                method="GET",
                pattern="/pulls/run",
                handler=_websocket_only,
                prepare=_check_pull,
                stream=self._follow_pull,
                listeners=("unix",),
                summary="Pull an image by WebSocket, with progress; plain HTTP is answered with"
                " 400",
                parameters=PULL_PARAMETERS,
            ),
            Route(
                method="POST",
                pattern="/prefetch",
                handler=self._prefetch,
                listeners=("unix",),
                summary="Have other nodes pull an image",
                request_body=PREFETCH_BODY,
                answers=(
                    json_answer("The answer of each node.", object_of(nodes=array_of(Prefetching))),
                ),
            ),
            Route(
                method="POST",
                pattern=HERE_PATH,
                handler=self._prefetch_here,
                listeners=("tcp",),
                summary="Have this node pull an image, if its operator allows it",
                parameters=(REFERENCE, PLATFORM_PARAMETER),
                answers=(
                    json_answer("The pull has begun.", object_of(state={"const": "started"})),
                    error(403, "The operator of this node does not allow it."),
                    error(503, "Too many prefetches are under way (`BUSY`)."),
                ),
                tags=("agents",),
            ),
            Route(
                method="GET",
                pattern="/transfers",
                handler=self._list_transfers,
                prepare=_check_transfers,
                stream=self._follow_transfers,
                summary="The blobs that this node is receiving or sending",
                answers=(json_answer("The transfers.", object_of(transfers=array_of(Transfer))),),
            ),
        ]

    # --- pulls ------------------------------------------------------------------------------

    async def _pull(self, request: Request) -> Response:
        reference, node, platform = _read_pull(request)
        return json_response(await self._pulls.pull(reference, node=node, platform=platform))

    async def _follow_pull(self, request: Request, send: SendMessage) -> None:
        reference, node, platform = _read_pull(request)
        async with self._pulls.following(reference, node=node, platform=platform) as rows:
            async for row in rows:
                await send(msgspec.json.encode(row))

    # --- prefetches -------------------------------------------------------------------------

    async def _prefetch(self, request: Request) -> Response:
        """Have other nodes pull."""
        try:
            wanted = msgspec.json.decode(request.body, type=Prefetch)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is not a prefetch: {error}") from None
        read_key(wanted.reference, None, wanted.platform)
        own = self._members.own.node
        if wanted.nodes == "all":
            nodes = [m.node for m in self._members.all() if m.status.online and m.node != own]
        else:
            nodes = [read_node_id(text) for text in wanted.nodes]
        answers: dict[NodeId, Prefetching] = {}
        limiter = trio.CapacityLimiter(PREFETCHES_AT_ONCE)

        async def ask(node: NodeId) -> None:
            async with limiter:
                answers[node] = await self._ask(node, wanted)

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return json_response({"nodes": [answers[node] for node in nodes]})

    async def _ask(self, node: NodeId, wanted: Prefetch) -> Prefetching:
        """Have one node pull."""
        member = self._members.get(node)
        answer = partial(Prefetching, node=node_id_text(node), name=member.name if member else "")
        if node == self._members.own.node:
            self._begin(wanted.reference, wanted.platform)
            return answer(state="started")
        if member is None or not member.status.online:
            return answer(
                state="unreachable", message="the node is offline, or this node does not know it"
            )
        fields = {"reference": wanted.reference, "platform": wanted.platform}
        query = urlencode({name: text for name, text in fields.items() if text is not None})
        try:
            await self._post(member.address, f"{HERE_PATH}?{query}")
        except PeerDeclined as error:
            why = "the node's operator does not allow it (--allow-prefetch)"
            return answer(state="refused", message=why if error.status == 403 else str(error))
        except (PeerRefused, PeerUnreachable, RemoteProtocolError, OSError) as error:
            return answer(state="unreachable", message=str(error))
        return answer(state="started")

    async def _post(self, address: Address, path: str) -> None:
        await self._peers.post(
            address,
            path,
            b"",
            timeout_s=PREFETCH_TIMEOUT_S,
            response_bytes_max=PREFETCH_ANSWER_BYTES_MAX,
        )

    async def _prefetch_here(self, request: Request) -> Response:
        """Pull on the order of another node, if the operator allows it."""
        reference, node, platform = _read_pull(request)
        parsed = read_key(reference, None, platform).reference
        if not self._is_member(request.peer) or not self._allows(parsed):
            raise ApiError(
                403, "DENIED", f"this node's --allow-prefetch does not include {reference}"
            )
        if node is not None:
            raise BadRequest("a prefetch takes no parameter from")
        if self._prefetching >= PREFETCHES_MAX:
            raise ApiError(
                503, "BUSY", f"{PREFETCHES_MAX} prefetches are under way; try again later"
            )
        self._begin(reference, platform)
        return json_response({"state": "started"})

    def _allows(self, reference: Reference) -> bool:
        return matches_any(self._allowed, reference.registry, reference.repository)

    def _begin(self, reference: str, platform: str | None) -> None:
        self._prefetching += 1
        self._nursery.start_soon(self._do, reference, platform)

    async def _do(self, reference: str, platform: str | None) -> None:
        try:
            await self._pulls.pull(reference, platform=platform)
        except ApiError as error:
            _log.warning("prefetch of %s: %s", reference, error)
        finally:
            self._prefetching -= 1

    # --- transfers --------------------------------------------------------------------------

    async def _list_transfers(self, request: Request) -> Response:
        check_names(request, ())
        return json_response({"transfers": self._transfers.rows()})

    async def _follow_transfers(self, request: Request, send: SendMessage) -> None:
        shown: dict[str, Transfer] = {row.id: row for row in self._transfers.rows()}
        for row in shown.values():
            await send(msgspec.json.encode(row))
        if request.query.get("follow") != ["true"]:
            return
        await send(msgspec.json.encode(Change(change="listed")))
        while True:
            await trio.sleep(FOLLOW_S)
            now = {row.id: row for row in self._transfers.rows()}
            for change in _differences(shown, now):
                await send(msgspec.json.encode(change))
            shown = now


def _differences(before: Mapping[str, Transfer], now: Mapping[str, Transfer]) -> list[Change]:
    changes = [
        Change(change="removed", transfer=row) for key, row in before.items() if key not in now
    ]
    for key, row in now.items():
        if key not in before:
            changes.append(Change(change="added", transfer=row))
        elif before[key] != row:
            changes.append(Change(change="changed", transfer=row))
    return changes


def _read_pull(request: Request) -> tuple[str, NodeId | None, str | None]:
    """The reference, the node and the platform. Raises: BadRequest."""
    check_names(request, ("reference", "from", "platform"))
    given = {name: values[0] for name, values in request.query.items()}
    if not given.get("reference"):
        raise BadRequest("the parameter reference is missing: reference=NAME")
    node = read_node_id(given["from"]) if "from" in given else None
    return given["reference"], node, given.get("platform")


def _check_pull(request: Request) -> None:
    reference, node, platform = _read_pull(request)
    read_key(reference, node, platform)


def _check_transfers(request: Request) -> None:
    check_names(request, ("follow",))
    read_boolean(request, "follow")


async def _websocket_only(request: Request) -> Response:
    raise BadRequest("/pulls/run needs a WebSocket; over HTTP send POST /pulls")
