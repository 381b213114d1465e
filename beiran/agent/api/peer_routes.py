"""The routes for other agents: blobs, manifests, and tag resolutions.

``transfer/uploads.py`` answers the requests for blobs. ``peers`` and ``pull/peer_lookup.py`` are
the clients of these routes. Gossip has its own routes in ``agent/gossip_driver.py``.

Over TCP only members of the cluster may use them, and any other client gets 403. The cache also has
blobs of private repositories, and these routes do not ask for credentials.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from beiran.agent.api.parameters import read_digest
from beiran.api.models import TagMeaning
from beiran.engine.interface import Engine
from beiran.errors import ApiError, BadRequest, DataError, EngineUnavailable, NotFound
from beiran.http.description import (
    ANY_BYTES,
    DIGEST,
    NOT_FOUND,
    RANGE,
    Answer,
    Parameter,
    Schema,
    bytes_answers,
    error,
    json_answer,
    object_of,
    path_parameter,
)
from beiran.http.messages import Request, Response, Route, json_response
from beiran.ids import digest_text
from beiran.mirror.routes import BLOB_MEDIA_TYPE
from beiran.oci.manifests import MANIFEST_TYPES, BadManifest, media_type_of
from beiran.pull.manifest_store import ManifestStore
from beiran.pull.peer_lookup import HAVE_DIGESTS_MAX, HAVE_PATH, TAGS_PATH, HaveAnswer, HaveQuestion
from beiran.store.async_reads import Reads
from beiran.transfer.uploads import Uploads

REFERENCE_CHARS_MAX: Final = 1024  # a registry, a repository of 255 characters and a tag of 128

# The descriptions of the routes, for the OpenAPI document.
TAGS: Final = ("agents",)
INTEGER: Final[Schema] = {"type": "integer"}
TAG_REFERENCE: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,200}$"}
MANIFEST: Final = Answer(
    200, "The manifest or the index, byte for byte.", dict.fromkeys(MANIFEST_TYPES, ANY_BYTES)
)
HAVE_BODY: Final = object_of(
    digests={"type": "array", "items": DIGEST, "maxItems": HAVE_DIGESTS_MAX}
)
STRANGER: Final = error(403, "The client is not a member of the cluster.")
DAMAGED: Final = error(500, "The files of this node are damaged.")
AWAY: Final = error(503, "The engine does not answer, or too many requests are under way.")


class PeerRoutes:
    """The routes for other agents.

    Args:
      is_member: whether an online member of the cluster has this IP address.
    """

    def __init__(
        self,
        reads: Reads,
        engine: Engine,
        manifests: ManifestStore,
        uploads: Uploads,
        *,
        is_member: Callable[[str], bool],
    ) -> None:
        self._reads: Final = reads
        self._engine: Final = engine
        self._manifests: Final = manifests
        self._uploads: Final = uploads
        self._is_member: Final = is_member

    def routes(self) -> list[Route]:
        """For the TCP and the unix listener."""
        return [
            Route(
                method="POST",
                pattern=HAVE_PATH,
                handler=self._have,
                summary="Which of these blobs this node can serve, and their sizes",
                request_body=HAVE_BODY,
                answers=(
                    json_answer(
                        "The blobs that this node can serve: bytes by digest.",
                        object_of(blobs={"type": "object", "additionalProperties": INTEGER}),
                    ),
                    STRANGER,
                    error(413, "The request has too many digests."),
                ),
                tags=TAGS,
            ),
            Route(
                method="GET",
                pattern="/blobs/{digest}",
                handler=self._blob,
                summary="A blob, whole or in part: from the cache, a download under way, or the"
                " engine",
                parameters=(path_parameter("digest", DIGEST, "The blob's digest."), RANGE),
                answers=(
                    *bytes_answers(BLOB_MEDIA_TYPE, "The blob."),
                    STRANGER,
                    NOT_FOUND,
                    DAMAGED,
                    AWAY,
                ),
                tags=TAGS,
            ),
            Route(
                method="GET",
                pattern="/manifests/{digest}",
                handler=self._manifest,
                summary="A manifest or an index that this node has",
                parameters=(path_parameter("digest", DIGEST, "The manifest's digest."),),
                answers=(MANIFEST, STRANGER, NOT_FOUND, DAMAGED),
                tags=TAGS,
            ),
            Route(
                method="GET",
                pattern="/images/{id}/manifest",
                handler=self._image_manifest,
                summary="The manifest by which this node can serve an image",
                parameters=(path_parameter("id", DIGEST, "The digest of the image's config."),),
                answers=(MANIFEST, STRANGER, NOT_FOUND, DAMAGED, AWAY),
                tags=TAGS,
            ),
            Route(
                method="GET",
                pattern=TAGS_PATH,
                handler=self._tag,
                summary="How the registry last resolved a tag for this node",
                parameters=(
                    Parameter("reference", TAG_REFERENCE, "The whole tag.", required=True),
                ),
                answers=(json_answer("The tag's digest.", TagMeaning), STRANGER, NOT_FOUND),
                tags=TAGS,
            ),
        ]

    async def _have(self, request: Request) -> Response:
        self._check(request)
        try:
            question = msgspec.json.decode(request.body, type=HaveQuestion)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f'the body must be {{"digests": ["sha256:…", …]}}: {error}') from None
        digests = [read_digest(text) for text in question.digests]
        found = await self._uploads.having(digests)
        return json_response(HaveAnswer({digest_text(d): size for d, size in found.items()}))

    async def _blob(self, request: Request) -> Response:
        self._check(request)
        return await self._uploads.answer(request, read_digest(request.path_args["digest"]))

    async def _manifest(self, request: Request) -> Response:
        self._check(request)
        digest = read_digest(request.path_args["digest"])
        data = await self._manifests.manifest_here(digest)
        if data is None:
            raise NotFound("MANIFEST_UNKNOWN", f"this node has no manifest {digest_text(digest)}")
        return _manifest_response(data)

    async def _image_manifest(self, request: Request) -> Response:
        self._check(request)
        image = read_digest(request.path_args["id"])
        try:
            kept = await self._engine.image_manifest(image)
        except EngineUnavailable as error:
            raise ApiError(503, "ENGINE_UNAVAILABLE", str(error)) from error
        except DataError as error:
            raise ApiError(500, "IMAGE_DAMAGED", str(error)) from error
        if kept is None:
            raise NotFound("IMAGE_UNKNOWN", f"this node cannot serve {digest_text(image)}")
        return _manifest_response(kept.data)

    async def _tag(self, request: Request) -> Response:
        self._check(request)
        references = request.query.get("reference", [])
        if len(references) != 1 or len(references[0]) > REFERENCE_CHARS_MAX:
            raise BadRequest("give the parameter reference=REGISTRY/REPOSITORY:TAG once")
        resolved = await self._reads(lambda queries: queries.tag_meaning(references[0]))
        if resolved is None:
            raise NotFound("TAG_UNKNOWN", f"this node has not resolved {references[0]}")
        return json_response(resolved)

    def _check(self, request: Request) -> None:
        if request.listener == "tcp" and not self._is_member(request.peer):
            raise ApiError(
                403,
                "DENIED",
                f"{request.path} is for members of the cluster only (see /nodes)",
            )


def _manifest_response(data: bytes) -> Response:
    try:
        media_type = media_type_of(data)
    except BadManifest as error:
        raise ApiError(500, "MANIFEST_DAMAGED", str(error)) from None
    return Response(headers=[("Content-Type", media_type)], body=data)
