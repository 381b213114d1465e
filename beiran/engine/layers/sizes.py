"""Sizes of layers that lie compressed in a folder, measured by reading each once."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import trio

from beiran.engine.content_store import LayerBlob, PlatformImage
from beiran.engine.layers.layer_blob import Measured, measure
from beiran.errors import DataError
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.images import ImageDescription, LayerDescription

REPORT_PAUSE_S: Final = 0.2
"""Between reports: one compares all images, which costs more than to measure a small layer."""

_log = logging.getLogger(__name__)

_Key = tuple[Digest, Digest]


class _Line(msgspec.Struct, array_like=True):
    """A line of the cache file."""

    blob: str
    diff_id: str
    files_bytes: int
    tar_bytes: int


class LayerSizes:
    """Sizes of layers by the digests of their blobs; ``cache_file`` keeps them over a restart.

    The file may be deleted at any time: its layers are measured again. A line that cannot be read
    is skipped.
    """

    def __init__(self, cache_file: Path | None = None) -> None:
        self._cache_file = cache_file
        self._wanted: dict[_Key, tuple[LayerBlob, Path]] = {}
        self._work = trio.Event()
        self._measured = trio.Event()
        self.settled = trio.Event()
        """Set when nothing that is wanted is left to measure."""
        self._sizes: dict[_Key, Measured] = {}
        self._damaged: dict[_Key, tuple[int, ...]] = {}
        self._loaded = cache_file is None

    def get(self, layer: LayerBlob) -> Measured | None:
        """Its size, or None when it is not measured or damaged."""
        return self._sizes.get((layer.digest, layer.diff_id))

    def note(self, layer: LayerBlob, measured: Measured) -> None:
        """Keep a size that was not measured here."""
        self._sizes[layer.digest, layer.diff_id] = measured
        self._save(layer, measured)

    def describe(self, image: PlatformImage) -> ImageDescription | None:
        """The description of ``image``; None until all its layers are measured."""
        layers = []
        for layer in image.layers:
            size = self.get(layer)
            if size is None:
                return None
            layers.append(LayerDescription(layer.diff_id, size.files_bytes))
        return ImageDescription(
            image.config, image.os, image.architecture, image.created_at, tuple(layers)
        )

    async def load(self) -> None:
        """Read the cache file, once."""
        if not self._loaded:
            self._loaded = True
            await trio.to_thread.run_sync(self._load)

    def want(self, layers: Iterable[tuple[LayerBlob, Path]]) -> None:
        """Have these measured, in this order, instead of what was wanted before."""
        self._wanted = {
            (layer.digest, layer.diff_id): (layer, path)
            for layer, path in layers
            if (layer.digest, layer.diff_id) not in self._sizes
        }
        if self._wanted:
            self.settled = trio.Event()
            self._work.set()
        else:
            self.settled.set()

    async def more_measured(self) -> None:
        """Wait for more sizes: every ``REPORT_PAUSE_S`` while measuring, and at the end."""
        await self._measured.wait()

    def _announce(self) -> None:
        self._measured.set()
        self._measured = trio.Event()

    async def serve(self) -> None:
        """Measure what is wanted, for ever.

        A damaged blob is logged once, and read again only after its file changed.
        """
        while True:
            await self._work.wait()
            report_at = trio.current_time()
            while self._wanted:
                key, (layer, path) = next(iter(self._wanted.items()))
                await self._measure_in_thread(key, layer, path)
                self._wanted.pop(key, None)
                if trio.current_time() >= report_at:
                    self._announce()
                    report_at = trio.current_time() + REPORT_PAUSE_S
            self._work = trio.Event()
            self.settled.set()
            self._announce()

    async def measure_now(self, layers: Iterable[tuple[LayerBlob, Path]]) -> None:
        """Measure these before going on."""
        for layer, path in layers:
            key = (layer.digest, layer.diff_id)
            if key not in self._sizes:
                await self._measure_in_thread(key, layer, path)

    async def _measure_in_thread(self, key: _Key, layer: LayerBlob, path: Path) -> None:
        # A large layer takes longer than a stopping agent may wait.
        await trio.to_thread.run_sync(self._measure, key, layer, path, abandon_on_cancel=True)

    def _measure(self, key: _Key, layer: LayerBlob, path: Path) -> None:
        try:
            status = os.stat(path)
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            return  # it went away, and its image with it
        if self._damaged.get(key) == identity:
            return
        try:
            measured = measure(layer, path)
        except DataError as problem:
            self._damaged[key] = identity
            _log.warning("a layer is damaged, and its images are not listed: %s", problem)
            return
        self._sizes[key] = measured
        self._save(layer, measured)

    def _load(self) -> None:
        assert self._cache_file is not None
        try:
            lines = self._cache_file.read_bytes().splitlines()
        except OSError:
            return
        for text in lines:
            try:
                line = msgspec.json.decode(text, type=_Line)
                key = (parse_digest(line.blob), parse_digest(line.diff_id))
            except (msgspec.DecodeError, ValueError):
                continue
            self._sizes[key] = Measured(line.files_bytes, line.tar_bytes)

    def _save(self, layer: LayerBlob, measured: Measured) -> None:
        if self._cache_file is None:
            return
        blob, diff_id = digest_text(layer.digest), digest_text(layer.diff_id)
        line = _Line(blob, diff_id, measured.files_bytes, measured.tar_bytes)
        try:
            with self._cache_file.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            _log.warning(
                "%s cannot be written (%s): layers are measured again at the next start",
                self._cache_file,
                error.strerror,
            )
            self._cache_file = None
