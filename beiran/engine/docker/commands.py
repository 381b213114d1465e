"""What Docker is told to do: load, pull, tag, untag.

Docker answers 200 before it begins, and says in the stream of its answer what went wrong.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from beiran.engine.docker.docker_client import DockerApi, Upload, image_path, lines, one_line
from beiran.engine.docker.load import Entry, archive
from beiran.engine.interface import PullProgress
from beiran.errors import EngineRefused, NotFound

_LAYER: Final = re.compile(r"[0-9a-f]{12}")


class _Detail(Struct):
    current: int = 0
    total: int = 0


class _ErrorDetail(Struct):
    message: str = ""


class _Line(Struct, rename="camel"):
    """A line of what Docker says while it works. moby, pkg/jsonmessage."""

    status: str = ""
    id: str = ""
    error: str = ""
    progress_detail: _Detail | None = None
    error_detail: _ErrorDetail | None = None


class DockerActions:
    """Tells a Docker Engine what to do.

    Every method raises EngineRefused with Docker's own reason, and EngineUnavailable.
    """

    def __init__(self, api: DockerApi) -> None:
        self._api = api

    async def load(self, entries: Sequence[Entry]) -> None:
        """``docker load`` of these files. Also raises DataError from what they are read from."""
        await self._do("/images/load?quiet=1", upload=archive(entries))

    async def pull(
        self, reference: str, platform: str | None, progress: Callable[[PullProgress], None]
    ) -> None:
        """``docker pull``. Cancelling it hangs up, at which Docker stops."""
        name, tag = split_reference(reference)
        query = {"fromImage": name, "tag": tag}
        if platform is not None:
            query["platform"] = platform
        await self._do("/images/create?" + urlencode(query), progress=progress)

    async def tag(self, image: str, name: str) -> None:
        """``docker tag``. Also raises NotFound."""
        repository, tag = split_reference(name)
        query = urlencode({"repo": repository, "tag": tag})
        await self._api.post(f"{image_path(image, 'tag')}?{query}")

    async def untag(self, name: str) -> None:
        """``docker rmi --no-prune`` of a name; what is not there is gone already."""
        try:
            await self._api.delete(f"/images/{quote(name, safe='/:@')}?noprune=1")
        except NotFound:
            return

    async def _do(
        self,
        path: str,
        *,
        upload: Upload | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        """``POST path``, and hear all that Docker says until it is done."""
        try:
            async with (
                self._api.stream(path, method="POST", upload=upload) as pieces,
                aclosing(lines(pieces)) as said,
            ):
                async for line in said:
                    _hear(line, progress)
        except NotFound as error:
            raise EngineRefused(f"Docker: {one_line(error.message)}") from None


def _hear(line: bytes, progress: Callable[[PullProgress], None]) -> None:
    """Raises: EngineRefused when a line says that it did not work."""
    try:
        heard = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # an empty line, or something that no release says yet
    message = heard.error or (heard.error_detail.message if heard.error_detail else "")
    if message:
        raise EngineRefused(f"Docker: {one_line(message)}")
    # After "id" comes a layer, or the tag that is pulled.
    layer = heard.id if _LAYER.fullmatch(heard.id) else ""
    detail = heard.progress_detail or _Detail()
    progress(PullProgress(layer, heard.status, max(detail.current, 0), max(detail.total, 0)))


def split_reference(reference: str) -> tuple[str, str]:
    """A name, and its tag or digest.

    Raises: EngineRefused when it has neither: Docker would pull all tags.
    """
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    name, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag or not name or not tag:
        raise EngineRefused(f"{reference} has neither a tag nor a digest")
    return name, tag
