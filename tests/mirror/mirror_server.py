"""A mirror on loopback, over a backend in memory that the tests fill and trouble."""

import hashlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any, Self

import msgspec
import trio
from msgspec import Struct, field

from beiran.http.connection import HttpConnection
from beiran.http.messages import FileSlice
from beiran.ids import Digest, digest_text
from beiran.mirror.backend import (
    ManifestAnswer,
    OpenBlob,
    Reference,
    RepositoryName,
    Source,
    TagPage,
)
from beiran.mirror.errors import BlobUnknown, ManifestUnknown, NameUnknown
from beiran.mirror.routes import mirror_routes
from beiran.oci.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Platform
from beiran.oci.media_types import ACCEPTS_ANYTHING, Accept
from tests.http.serving import PATIENCE_S, Served, blob, serve

CHUNK_BYTES = 1000


def sha256(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


class MemoryBlob:
    """An ``OpenBlob``: from a file, or chunk by chunk."""

    def __init__(self, backend: "MemoryBackend", data: bytes) -> None:
        self.size_bytes = len(data)
        self._backend = backend
        self._data = data

    def file(self, start: int, end: int) -> FileSlice | None:
        if not self._backend.in_files:
            return None
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        os.write(descriptor, self._data)
        return FileSlice(descriptor=descriptor, start=start, length=end - start)

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, CHUNK_BYTES):
            if at >= self._backend.trouble_at:
                await self._backend.trouble()
            yield self._data[at : min(at + CHUNK_BYTES, end)]


class Question(Struct):
    """A manifest that was asked for."""

    reference: Reference
    accept: Accept
    for_engine: bool


class Repository(Struct):
    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)


class MemoryBackend:
    """The mirror's ``Backend``.

    Attributes:
      error: raised instead of any answer.
      hanging: nothing is answered at all.
      blob_error: raised instead of opening a layer.
      in_files: blobs are sent from files.
      trouble_at: a blob goes wrong before the chunk that begins there, as ``trouble`` does.
    """

    def __init__(self) -> None:
        self.open_blobs = 0
        self.clear()

    def clear(self) -> None:
        """As it was made."""
        self.repositories: dict[RepositoryName, Repository] = {}
        self.error: Exception | None = None
        self.hanging = False
        self.in_files = False
        self.source: Source = "origin"
        self.warning = ""
        self.blob_error: Exception | None = None
        self.trouble_at = 2**63
        self.trouble_error: Exception | None = None
        self.questions: list[Question] = []

    # What the tests put there

    def repository(self, name: RepositoryName) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def add_blob(self, name: RepositoryName, data: bytes) -> Digest:
        digest = sha256(data)
        self.repository(name).blobs[digest] = data
        return digest

    def add_manifest(
        self, name: RepositoryName, media_type: str, document: Mapping[str, Any], *tags: str
    ) -> Digest:
        data = msgspec.json.encode({"schemaVersion": 2, "mediaType": media_type, **document})
        digest = sha256(data)
        self.repository(name).manifests[digest] = (media_type, data)
        for tag in tags:
            self.repository(name).tags[tag] = digest
        return digest

    def add_image(
        self,
        name: RepositoryName,
        *tags: str,
        media_type: str = OCI_MANIFEST,
        architecture: str = "amd64",
    ) -> Digest:
        layer = blob(5000)
        docker = media_type == DOCKER_MANIFEST
        config = msgspec.json.encode(
            {
                "os": "linux",
                "architecture": architecture,
                "rootfs": {"type": "layers", "diff_ids": [digest_text(sha256(layer))]},
            }
        )
        config_type, layer_type = (
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar",
            )
            if docker
            else (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar",
            )
        )
        self.add_blob(name, config)
        self.add_blob(name, layer)
        document = {
            "config": descriptor(config_type, config),
            "layers": [descriptor(layer_type, layer)],
        }
        return self.add_manifest(name, media_type, document, *tags)

    def add_index(
        self,
        name: RepositoryName,
        tag: str,
        *platforms: Platform,
        media_type: str = OCI_INDEX,
        inner: str = OCI_MANIFEST,
    ) -> Digest:
        entries = []
        for platform in platforms:
            digest = self.add_image(name, media_type=inner, architecture=platform.architecture)
            entry = descriptor(inner, self.repository(name).manifests[digest][1])
            entries.append({**entry, "platform": msgspec.to_builtins(platform)})
        return self.add_manifest(name, media_type, {"manifests": entries}, tag)

    def data(self, name: RepositoryName, digest: Digest) -> bytes:
        return self.repository(name).manifests[digest][1]

    async def trouble(self) -> None:
        if self.trouble_error is not None:
            raise self.trouble_error
        await trio.sleep_forever()

    # What the mirror asks

    async def manifest(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        accept: Accept = ACCEPTS_ANYTHING,
        for_engine: bool = False,
    ) -> ManifestAnswer:
        repository = await self._find(name)
        self.questions.append(Question(reference, accept, for_engine))
        digest = repository.tags.get(reference) if isinstance(reference, str) else reference
        if digest is None or digest not in repository.manifests:
            raise ManifestUnknown(f"{name} has no such manifest")
        media_type, data = repository.manifests[digest]
        return ManifestAnswer(
            digest=digest,
            media_type=media_type,
            data=data,
            source=self.source,
            warning=self.warning,
        )

    async def blob_size(self, name: RepositoryName, digest: Digest) -> int:
        return len(self._blob(await self._find(name), digest))

    @asynccontextmanager
    async def blob(self, name: RepositoryName, digest: Digest) -> AsyncIterator[OpenBlob]:
        data = self._blob(await self._find(name), digest)
        if self.blob_error is not None and b"rootfs" not in data:
            raise self.blob_error
        self.open_blobs += 1
        try:
            yield MemoryBlob(self, data)
        finally:
            self.open_blobs -= 1

    async def tags(self, name: RepositoryName, *, n: int, last: str = "") -> TagPage:
        repository = await self._find(name)
        after = [tag for tag in sorted(repository.tags) if tag > last]
        return TagPage(tags=after[:n], more=len(after) > n, source=self.source)

    async def _find(self, name: RepositoryName) -> Repository:
        if self.hanging:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error
        if name not in self.repositories:
            raise NameUnknown(f"{name} is unknown")
        return self.repositories[name]

    def _blob(self, repository: Repository, digest: Digest) -> bytes:
        if digest not in repository.blobs:
            raise BlobUnknown(f"there is no blob {digest_text(digest)}")
        return repository.blobs[digest]


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": digest_text(sha256(data))}


class Reply(Struct):
    """An answer of the mirror. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of the one error that it is."""
        (error,) = self.json["errors"]
        assert error["message"]
        return self.status, error["code"]


class Mirror:
    """A mirror that runs, and its backend."""

    def __init__(self, backend: MemoryBackend, served: Served) -> None:
        self.backend = backend
        self.served = served

    @property
    def port(self) -> int:
        return self.served.port

    async def ask(self, path: str, *headers: tuple[str, str], method: str = "GET") -> Reply:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        connection = HttpConnection(stream, f"127.0.0.1:{self.port}")
        try:
            with trio.fail_after(PATIENCE_S):
                answer = await connection.ask(method, path, headers=headers)
                body = await connection.read(bytes_max=2**24)
        finally:
            connection.close()
        return Reply(answer.status, answer.headers, body)

    async def head(self, path: str, *headers: tuple[str, str]) -> Reply:
        return await self.ask(path, *headers, method="HEAD")


@asynccontextmanager
async def open_mirror(platforms: Sequence[Platform] | None = None) -> AsyncIterator[Mirror]:
    backend = MemoryBackend()
    routes = mirror_routes(backend, **({} if platforms is None else {"platforms": platforms}))
    async with serve(routes, listener="mirror") as served:
        yield Mirror(backend, served)


class MirrorThread:
    """A mirror in a thread of its own, for tests that block."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self._ports: SimpleQueue[int] = SimpleQueue()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._scope = trio.CancelScope()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with serve(mirror_routes(self.backend), listener="mirror") as served:
                self._ports.put(served.port)
                await trio.sleep_forever()

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._ports.get(timeout=30)}"
        return self

    def __exit__(self, *details: object) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(30)
