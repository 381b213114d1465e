"""``beiran image pull``: has the local engine hold an image, under its own name in the end.

Where everything that the engine lacks is near, or the engine is a folder, it is fetched here and
loaded: that moves the fewest bytes. Otherwise the engine pulls from the mirror, which streams the
layers to it as they come; the name by which it pulled is replaced by the image's own.

Whoever asks for the same pull joins it; it ends when nobody waits for it any more.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

import msgspec
import trio

from beiran.api.models import LayerState, PullDone, PullFailed, PullProgress
from beiran.engine.interface import Engine
from beiran.errors import (
    ApiError,
    BadRequest,
    BeiranError,
    DataError,
    EngineRefused,
    EngineUnavailable,
)
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import LibraryError, RepositoryName, Unavailable
from beiran.oci.manifests import digest_of, parse_platform
from beiran.oci.references import Reference, mirror_repository, parse_reference
from beiran.pull.engine_load import Loader
from beiran.pull.layer_format import LayerFacts, bytes_to_load, is_better_loaded
from beiran.pull.layer_locations import Survey
from beiran.pull.resolver import PullPlan, Resolution
from beiran.transfer.downloads import Transfers

PROGRESS_S: Final = 0.2
NAMING_S: Final = 10.0
"""So long the engine may take to rename what it pulled, also while the agent is stopping."""

INTERRUPTION_S: Final = 60.0
"""So long a pull that has brought bytes waits for more, when nobody gives any."""
GO_ON_S: Final = 2.0
ENDED: Final = frozenset({"there", "done"})

PULLS_MAX: Final = 64
"""At a time; more are refused."""

_log: Final = logging.getLogger(__name__)

Row = PullProgress | PullDone | PullFailed


class PullKey(NamedTuple):
    """What makes two pulls the same."""

    reference: Reference
    node: NodeId | None
    platform: str | None


class _Pull:
    """One pull, for as long as anybody waits for it."""

    def __init__(self, key: PullKey) -> None:
        self.key: Final = key
        self.waiting = 0
        self.scope: Final = trio.CancelScope()
        self.rows: dict[str, PullProgress] = {}
        self.interrupted: dict[str, PullProgress] = {}
        """The rows of layers that were on their way when the pull was last interrupted."""
        self.end: PullDone | PullFailed | None = None
        self._changed = trio.Event()

    def tell(self, row: PullProgress) -> None:
        """How far a layer is."""
        if self.rows.get(row.digest) != row:
            self.rows[row.digest] = row
            self._wake()

    def finish(self, end: PullDone | PullFailed) -> None:
        """How it ended."""
        self.end = end
        self._wake()

    async def changed(self) -> None:
        """Wait for more to be told."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Pulls:
    """Does pulls.

    Args:
      mirror: ``127.0.0.1:PORT`` of the mirror; None where there is none.
    """

    def __init__(
        self,
        library: Resolution,
        loader: Loader,
        transfers: Transfers,
        engine: Engine,
        *,
        mirror: str | None,
    ) -> None:
        self._library: Final = library
        self._loader: Final = loader
        self._transfers: Final = transfers
        self._engine: Final = engine
        self._mirror: Final = mirror
        self._going: dict[PullKey, _Pull] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do pulls until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def following(
        self, reference: str, *, node: NodeId | None, platform: str | None
    ) -> AsyncIterator[AsyncIterator[Row]]:
        """Begin a pull, or join it, and follow its rows; the last says how it ended.

        Raises: BadRequest for what is no reference or platform; ApiError when there are too many.
        """
        pull = self._begin(read_key(reference, node, platform))
        pull.waiting += 1
        try:
            async with aclosing(_rows(pull)) as rows:
                yield rows
        finally:
            pull.waiting -= 1
            if not pull.waiting and pull.end is None:
                pull.scope.cancel()

    async def pull(
        self, reference: str, *, node: NodeId | None = None, platform: str | None = None
    ) -> PullDone:
        """Pull an image and wait until it is there. Raises: ApiError."""
        async with self.following(reference, node=node, platform=platform) as rows:
            async for row in rows:
                if isinstance(row, PullDone):
                    return row
                if isinstance(row, PullFailed):
                    raise ApiError(row.status, row.code, row.message)
        raise ApiError(503, "UNAVAILABLE", "the agent is stopping")

    def _begin(self, key: PullKey) -> _Pull:
        pull = self._going.get(key)
        if pull is None or pull.scope.cancel_called:
            if len(self._going) >= PULLS_MAX or self._nursery is None:
                raise ApiError(503, "BUSY", f"{PULLS_MAX} pulls are under way; try again later")
            pull = self._going[key] = _Pull(key)
            self._nursery.start_soon(self._run, pull)
        return pull

    async def _run(self, pull: _Pull) -> None:
        try:
            with pull.scope:
                pull.finish(await self._pull(pull))
        except ApiError as error:
            pull.finish(PullFailed(status=error.status, code=error.code, message=error.message))
        except EngineRefused as error:
            pull.finish(PullFailed(status=502, code="ENGINE_REFUSED", message=str(error)))
        except EngineUnavailable as error:
            pull.finish(PullFailed(status=503, code="ENGINE_UNAVAILABLE", message=str(error)))
        except DataError as error:
            pull.finish(PullFailed(status=500, code="DAMAGED", message=str(error)))
        except (BeiranError, OSError) as error:
            pull.finish(PullFailed(status=503, code="UNAVAILABLE", message=str(error)))
        except Exception:  # whatever is wrong with one pull, the agent goes on
            _log.exception("pull of %s failed", pull.key.reference.familiar)
            message = "the agent failed; its log tells why"
            pull.finish(PullFailed(status=500, code="INTERNAL", message=message))
        finally:
            if pull.end is None:
                pull.finish(PullFailed(status=503, code="CANCELLED", message="it was cancelled"))
            if self._going.get(pull.key) is pull:
                del self._going[pull.key]
        if pull.end is not None:
            _log.info("pull of %s: %s", pull.key.reference.familiar, _outcome(pull.end))

    async def _pull(self, pull: _Pull) -> PullDone:
        if self._engine.info.kind == "none":
            raise EngineRefused("this node has no engine: start its agent with one (--engine)")
        began = trio.current_time()
        reference, node, platform = pull.key
        name = RepositoryName(reference.registry, reference.repository)
        asked = reference.digest or reference.tag
        assert asked is not None
        platforms = () if platform is None else (parse_platform(platform),)
        plan = await self._library.plan(
            name, asked, platforms=platforms, node=node, tag=reference.tag or ""
        )
        if plan.warning:
            _log.warning("%s: %s", reference, plan.warning)
        doubts = self._library.doubts
        try:
            await self._watched(pull, platform, plan)
        except (LibraryError, EngineRefused):
            self._library.doubt_failed(plan.survey)
            if self._library.doubts == doubts:
                raise
            # Who was to give a layer did not: there may be another way.
            plan = await self._library.plan(
                name, asked, platforms=platforms, node=node, tag=reference.tag or ""
            )
            await self._watched(pull, platform, plan)
        layers = {facts.published.digest for facts in plan.survey.layers}
        self._tell_all(pull, plan.survey, ended=True)
        image = digest_text(plan.image.config.raw)
        rows = [row for row in pull.rows.values() if row.digest in layers or row.size_bytes]
        return PullDone(
            reference=str(reference),
            image=image,
            digest=digest_text(digest_of(plan.data)),
            bytes_from_peers=sum(row.bytes_from_peers for row in rows),
            bytes_from_origin=sum(row.bytes_from_origin for row in rows),
            duration_s=round(trio.current_time() - began, 3),
        )

    async def _watched(self, pull: _Pull, platform: str | None, plan: PullPlan) -> None:
        """Deliver an image; when nobody gives any more, wait a while for them to come back."""
        deliver = partial(self._deliver, pull.key.reference, platform, plan)
        interrupted_at: float | None = None
        while True:
            came_before = self._transfers.bytes_received
            try:
                await self._watching(pull, plan.survey, deliver)
                return
            except Unavailable as error:
                now = trio.current_time()
                if self._transfers.bytes_received > came_before:
                    interrupted_at = now
                    _log.info("pull of %s is interrupted: %s", pull.key.reference.familiar, error)
                if interrupted_at is None or now - interrupted_at > INTERRUPTION_S:
                    raise
            pull.interrupted = {d: row for d, row in pull.rows.items() if row.state not in ENDED}
            await trio.sleep(GO_ON_S)

    async def _deliver(self, reference: Reference, platform: str | None, plan: PullPlan) -> None:
        """Have the engine hold the image under its name."""
        survey = plan.survey
        name = f"{reference.registry}/{reference.repository}:{reference.tag}"
        tags = (name,) if reference.tag is not None else ()
        if survey.here and tags:
            await self._engine.tag(plan.image.config.raw, tags[0])
            return
        loads = not self._engine.can_pull or self._saves(survey) or not plan.from_origin
        if loads or self._mirror is None:
            await self._loader.load(
                plan.name,
                plan.image,
                survey,
                plan.inner,
                tags=tags,
                from_origin=plan.from_origin,
            )
            return
        await self._have_pulled(reference, platform, tags)

    async def _have_pulled(
        self, reference: Reference, platform: str | None, tags: tuple[str, ...]
    ) -> None:
        """Let the engine pull from the mirror, and give the image its own name."""
        repository = mirror_repository(reference.registry, reference.repository)
        rest = (
            f":{reference.tag}"
            if reference.digest is None
            else (f"@{digest_text(reference.digest)}")
        )
        pulled = f"{self._mirror}/{repository}{rest}"
        await self._engine.pull(pulled, platform=platform)
        if tags:
            with trio.move_on_after(NAMING_S, shield=True) as scope:
                await self._engine.tag(pulled, tags[0])
                await self._engine.untag(pulled)
            if scope.cancelled_caught:
                raise EngineUnavailable(
                    f"the engine did not give the image its name within {NAMING_S:g} s: "
                    f"docker tag {pulled} {tags[0]}"
                )

    def _saves(self, survey: Survey) -> bool:
        """Whether loading moves fewer bytes than having the engine pull."""
        if bytes_to_load(survey.layers) is None:
            return False
        return is_better_loaded(survey.layers)

    # --- progress ---------------------------------------------------------------------------

    async def _watching(
        self, pull: _Pull, survey: Survey, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do ``work`` and tell how far it is meanwhile. Raises: whatever it raises."""
        failure: BeiranError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, pull, survey)
            try:
                await work()
            except BeiranError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, pull: _Pull, survey: Survey) -> None:
        while True:
            self._tell_all(pull, survey, ended=False)
            await trio.sleep(PROGRESS_S)

    def _tell_all(self, pull: _Pull, survey: Survey, *, ended: bool) -> None:
        seen: set[Digest] = set()
        for facts in survey.layers:
            digest = facts.published.raw if facts.there else facts.best.raw
            if digest in seen:
                continue
            seen.add(digest)
            before = pull.rows.get(digest_text(digest))
            row = self._row(digest, facts, before, ended=ended)
            earlier = pull.interrupted.get(row.digest)
            if earlier is not None and row is not before and row.state == "fetching":
                row = msgspec.structs.replace(
                    row,
                    bytes_from_peers=row.bytes_from_peers + earlier.bytes_from_peers,
                    bytes_from_origin=row.bytes_from_origin + earlier.bytes_from_origin,
                )
            pull.tell(row)

    def _row(
        self, digest: Digest, facts: LayerFacts, before: PullProgress | None, *, ended: bool
    ) -> PullProgress:
        text = digest_text(digest)
        size = facts.published.size if facts.there else facts.best.size
        if facts.there or (before is not None and before.state == "there"):
            return PullProgress(digest=text, state="there", size_bytes=size, bytes_done=size)
        progress = self._transfers.progress(digest)
        if progress is None:
            done = ended or self._transfers.is_cached(digest)
            if before is None and done and not ended:
                return PullProgress(digest=text, state="there", size_bytes=size, bytes_done=size)
            if before is None:
                return PullProgress(
                    digest=text,
                    state="done" if done else "waiting",
                    size_bytes=size,
                    bytes_done=size if done else 0,
                )
            if not done:
                return before
            return msgspec.structs.replace(
                before, state="done", bytes_done=size, rate_bytes_per_s=0.0
            )
        state: LayerState = "fetching"
        if progress.held_bytes >= size:
            state = "done" if self._transfers.is_cached(digest) else "verifying"
        return PullProgress(
            digest=text,
            state=state,
            size_bytes=size,
            bytes_done=progress.held_bytes,
            bytes_from_peers=progress.from_peers_bytes,
            bytes_from_origin=progress.from_origin_bytes,
            rate_bytes_per_s=round(self._transfers.rate(digest)),
        )


def read_key(reference: str, node: NodeId | None, platform: str | None) -> PullKey:
    """What is to be pulled. Raises: BadRequest."""
    try:
        parsed = parse_reference(reference).tagged
        if platform is not None:
            platform = str(parse_platform(platform))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return PullKey(parsed, node, platform)


async def _rows(pull: _Pull) -> AsyncGenerator[Row]:
    """Every row as it is now and whenever it changes, then how it ended."""
    told: dict[str, PullProgress] = {}
    while True:
        for digest, row in list(pull.rows.items()):
            if told.get(digest) != row:
                told[digest] = row
                yield row
        if pull.end is not None and all(told.get(d) == row for d, row in pull.rows.items()):
            yield pull.end
            return
        if all(told.get(d) == row for d, row in pull.rows.items()):
            await pull.changed()


def _outcome(end: PullDone | PullFailed) -> str:
    if isinstance(end, PullFailed):
        return end.message
    return (
        f"{end.bytes_from_peers} bytes from peers, {end.bytes_from_origin} from the origin, "
        f"in {end.duration_s:.1f} s"
    )
