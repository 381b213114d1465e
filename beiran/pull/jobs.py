"""``beiran image pull``: have the local engine hold an image, in the end under its own name.

Where peers have everything that the engine lacks, and where the engine is a folder, the layers are
fetched here and loaded: that moves the fewest bytes. Otherwise the engine pulls from the mirror,
which streams the layers to it as they arrive; then the image gets its own name instead of the
mirror's.

Two requests for the same pull share one job. It ends when its last follower leaves.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
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
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import MirrorError, Unavailable
from beiran.oci.manifests import digest_of, parse_platform
from beiran.oci.references import Reference, mirror_repository, parse_reference
from beiran.pull.delivery import Delivery
from beiran.pull.layer_format import LayerFacts, bytes_to_load, is_better_loaded
from beiran.pull.locations import ImageLocations
from beiran.pull.resolver import PullPlan, Resolver
from beiran.transfer.downloads import Downloads

PROGRESS_S: Final = 0.2
"""How often the rows are brought up to date: five times a second look smooth in a terminal."""

NAMING_S: Final = 10.0
"""How long the engine may take to rename what it pulled, also while the agent stops. A tag and
an untag move no bytes; past this the engine hangs. Chosen."""

INTERRUPTION_S: Final = 60.0
"""How long a pull that has brought bytes waits for more when no source has any. Long enough for an
agent's or a registry's restart. Chosen."""

RETRY_INTERVAL_S: Final = 2.0
"""How often such a pull tries again."""

PULLS_MAX: Final = 64
"""At a time; more are refused. One engine pulls few images at once. Chosen."""

_ENDED: Final = frozenset({"there", "done"})

_log: Final = logging.getLogger(__name__)

Row = PullProgress | PullDone | PullFailed


class PullKey(NamedTuple):
    """Two requests with the same key share a pull."""

    reference: Reference
    node: NodeId | None
    platform: str | None


class _Pull:
    """One pull, as long as it has followers.

    Attributes:
      rows: how far each layer is, by its digest.
      interrupted: the rows of layers that were on their way when the pull was last interrupted.
      end: how the pull ended; None while it runs.
    """

    def __init__(self, key: PullKey) -> None:
        self.key: Final = key
        self.followers = 0
        self.scope: Final = trio.CancelScope()
        self.rows: dict[str, PullProgress] = {}
        self.interrupted: dict[str, PullProgress] = {}
        self.end: PullDone | PullFailed | None = None
        self._changed = trio.Event()

    def update(self, row: PullProgress) -> None:
        """How far a layer is now."""
        if self.rows.get(row.digest) != row:
            self.rows[row.digest] = row
            self._wake()

    def finish(self, end: PullDone | PullFailed) -> None:
        """How the pull ended."""
        self.end = end
        self._wake()

    async def changed(self) -> None:
        """Wait for a row, or the end, to change."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class PullJobs:
    """Runs pulls, in tasks of ``nursery``.

    Args:
      mirror: ``127.0.0.1:PORT`` of the mirror; None where there is none.
    """

    def __init__(
        self,
        resolver: Resolver,
        delivery: Delivery,
        downloads: Downloads,
        engine: Engine,
        nursery: trio.Nursery,
        *,
        mirror: str | None,
    ) -> None:
        self._resolver: Final = resolver
        self._delivery: Final = delivery
        self._downloads: Final = downloads
        self._engine: Final = engine
        self._nursery: Final = nursery
        self._mirror: Final = mirror
        self._running: dict[PullKey, _Pull] = {}

    @asynccontextmanager
    async def following(
        self, reference: str, *, node: NodeId | None, platform: str | None
    ) -> AsyncIterator[AsyncIterator[Row]]:
        """Begin a pull, or join it, and follow its rows; the last row says how it ended.

        Raises: BadRequest for a bad reference or platform; ApiError when ``PULLS_MAX`` run.
        """
        pull = self._begin(read_key(reference, node, platform))
        pull.followers += 1
        try:
            async with aclosing(_rows(pull)) as rows:
                yield rows
        finally:
            pull.followers -= 1
            if not pull.followers and pull.end is None:
                pull.scope.cancel()

    async def pull(
        self, reference: str, *, node: NodeId | None = None, platform: str | None = None
    ) -> PullDone:
        """Pull an image and wait until the engine holds it. Raises: ApiError."""
        async with self.following(reference, node=node, platform=platform) as rows:
            async for row in rows:
                if isinstance(row, PullDone):
                    return row
                if isinstance(row, PullFailed):
                    raise ApiError(row.status, row.code, row.message)
        raise ApiError(503, "UNAVAILABLE", "the agent is stopping")

    def _begin(self, key: PullKey) -> _Pull:
        pull = self._running.get(key)
        if pull is None or pull.scope.cancel_called:
            if len(self._running) >= PULLS_MAX:
                raise ApiError(503, "BUSY", f"{PULLS_MAX} pulls are under way; try again later")
            pull = self._running[key] = _Pull(key)
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
        except Exception:  # a bug in one pull must not end the agent
            _log.exception("pull of %s failed", pull.key.reference.familiar)
            message = "the agent failed; its log says why"
            pull.finish(PullFailed(status=500, code="INTERNAL", message=message))
        finally:
            if pull.end is None:
                pull.finish(
                    PullFailed(status=503, code="CANCELLED", message="the pull was cancelled")
                )
            if self._running.get(pull.key) is pull:
                del self._running[pull.key]
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
        make_plan = partial(
            self._resolver.plan,
            name,
            asked,
            platforms=platforms,
            node=node,
            tag=reference.tag or "",
        )
        plan = await make_plan()
        if plan.warning:
            _log.warning("%s: %s", reference, plan.warning)
        try:
            await self._deliver_patiently(pull, plan)
        except (MirrorError, EngineRefused):
            if not self._delivery.suspect_sources(plan.locations):
                raise
            # Another plan does not count on the peers that did not give a layer.
            plan = await make_plan()
            await self._deliver_patiently(pull, plan)
        layers = {facts.published.digest for facts in plan.locations.layers}
        self._update_rows(pull, plan.locations, ended=True)
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

    async def _deliver_patiently(self, pull: _Pull, plan: PullPlan) -> None:
        """Deliver an image; if its sources go away meanwhile, wait for them to come back.

        A pull that has brought no byte yet fails at once.
        """
        interrupted_at: float | None = None
        while True:
            received_before = self._downloads.bytes_received
            try:
                await self._deliver_watched(pull, plan)
                return
            except Unavailable as error:
                now = trio.current_time()
                if self._downloads.bytes_received > received_before:
                    interrupted_at = now
                    _log.info("pull of %s is interrupted: %s", pull.key.reference.familiar, error)
                if interrupted_at is None or now - interrupted_at > INTERRUPTION_S:
                    raise
            pull.interrupted = {d: row for d, row in pull.rows.items() if row.state not in _ENDED}
            await trio.sleep(RETRY_INTERVAL_S)

    async def _deliver(self, key: PullKey, plan: PullPlan) -> None:
        """Have the engine hold the image under its name."""
        reference, locations = key.reference, plan.locations
        name = f"{reference.registry}/{reference.repository}:{reference.tag}"
        tags = (name,) if reference.tag is not None else ()
        if locations.here and tags:
            await self._engine.tag(plan.image.config.raw, tags[0])
            return
        loads = (
            self._mirror is None
            or not self._engine.can_pull
            or not plan.from_origin
            or _moves_less_loaded(locations)
        )
        if not loads:
            await self._have_pulled(reference, key.platform, tags)
            return
        await self._delivery.load(
            plan.name,
            plan.image,
            locations,
            plan.manifest,
            tags=tags,
            from_origin=plan.from_origin,
        )

    async def _have_pulled(
        self, reference: Reference, platform: str | None, tags: tuple[str, ...]
    ) -> None:
        """Have the engine pull from the mirror, and give the image its own name."""
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

    # --- progress ---------------------------------------------------------------------------

    async def _deliver_watched(self, pull: _Pull, plan: PullPlan) -> None:
        """Deliver an image, and meanwhile keep the rows up to date."""
        failure: BeiranError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, pull, plan.locations)
            try:
                await self._deliver(pull.key, plan)
            except BeiranError as error:  # raised outside, so that no group wraps it
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, pull: _Pull, locations: ImageLocations) -> None:
        while True:
            self._update_rows(pull, locations, ended=False)
            await trio.sleep(PROGRESS_S)

    def _update_rows(self, pull: _Pull, locations: ImageLocations, *, ended: bool) -> None:
        seen: set[Digest] = set()
        for facts in locations.layers:
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
            pull.update(row)

    def _row(
        self, digest: Digest, facts: LayerFacts, before: PullProgress | None, *, ended: bool
    ) -> PullProgress:
        text = digest_text(digest)
        size = facts.published.size if facts.there else facts.best.size
        if facts.there or (before is not None and before.state == "there"):
            return PullProgress(digest=text, state="there", size_bytes=size, bytes_done=size)
        progress = self._downloads.progress(digest)
        if progress is None:
            done = ended or self._downloads.is_cached(digest)
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
            state = "done" if self._downloads.is_cached(digest) else "verifying"
        return PullProgress(
            digest=text,
            state=state,
            size_bytes=size,
            bytes_done=progress.held_bytes,
            bytes_from_peers=progress.from_peers_bytes,
            bytes_from_origin=progress.from_origin_bytes,
            rate_bytes_per_s=round(self._downloads.rate(digest)),
        )


def read_key(reference: str, node: NodeId | None, platform: str | None) -> PullKey:
    """Read what a request wants pulled. Raises: BadRequest."""
    try:
        parsed = parse_reference(reference).tagged
        if platform is not None:
            platform = str(parse_platform(platform))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return PullKey(parsed, node, platform)


def _moves_less_loaded(locations: ImageLocations) -> bool:
    """Whether loading moves fewer bytes than having the engine pull."""
    return bytes_to_load(locations.layers) is not None and is_better_loaded(locations.layers)


async def _rows(pull: _Pull) -> AsyncGenerator[Row]:
    """Every row as it is now and whenever it changes, then how the pull ended."""
    sent: dict[str, PullProgress] = {}
    while True:
        for digest, row in list(pull.rows.items()):
            if sent.get(digest) != row:
                sent[digest] = row
                yield row
        if sent == pull.rows:
            if pull.end is not None:
                yield pull.end
                return
            await pull.changed()


def _outcome(end: PullDone | PullFailed) -> str:
    if isinstance(end, PullFailed):
        return end.message
    return (
        f"{end.bytes_from_peers} bytes from peers, {end.bytes_from_origin} from the origin, "
        f"in {end.duration_s:.1f} s"
    )
