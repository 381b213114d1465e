"""HTTP to origins: connections that are kept, TLS, proxies, hosts that are down.

One request, one answer: what redirects and challenges mean is decided a floor up. The connections
are httpcore2's. (It is what httpx2 stands on; of httpx2 itself, whose cookies, redirects and
credentials would have to be switched off, nothing is needed, and it takes 2.4 MB more.) It takes
some 60 ms and 4 MB to import and to load the system's certificates as long again, which agents
that never pull are spared.

A host that could not be reached is *down*: whoever asks for it is told so at once, while it is
probed in the background, so that a registry that swallows packets costs a few seconds once and not
with every pull.
"""

import importlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import trio

from beiran.registry.errors import OriginBroken, OriginUnavailable
from beiran.registry.proxies import proxy_for

if TYPE_CHECKING:
    import httpcore2

CONNECT_TIMEOUT_S: Final = 1.8
"""For the name, TCP, and TLS each; below the 2 s that those who resolve a name wait at most."""

ANSWER_TIMEOUT_S: Final = 10.0
STALL_TIMEOUT_S: Final = 20.0
PATIENCE_S: Final = 1.5
"""Whoever gives up after this long without an answer leaves word that the host is down."""

KEEPALIVE_S: Final = 15.0
PROBE_DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
PROBE_INTERVAL_S: Final = 15.0
PROBE_TIMEOUT_S: Final = 2.0
PROBED_S: Final = 600.0
"""A host for which nobody asked so long is not probed any more."""

PRELOAD_AFTER_S: Final = 1.0
"""The HTTP library is loaded when the agent has started, and before the first pull waits for it."""

DOWN_S: Final = 5.0
"""Without a nursery to probe in, one request is let through after so long."""

HOSTS_MAX: Final = 1000
URL_CHARS_MAX: Final = 8192
CERTS_DIR: Final = Path("/etc/docker/certs.d")
USER_AGENT: Final = "beiran"
VIA: Final = "1.1 beiran"
"""A mirror of ours that is asked with this would ask itself."""

_PORTS: Final = {"http": 80, "https": 443}
T = TypeVar("T")


class Trust(NamedTuple):
    """What a registry's certificate is checked against, and how we show ours.

    ``ca`` is a file; ``certs`` is Docker's folder for that registry: ``*.crt`` are authorities,
    ``*.cert`` with ``*.key`` is our own. The system's authorities always count.
    """

    ca: Path | None = None
    certs: Path | None = None


class Url(NamedTuple):
    """A URL that was checked. ``target`` is its path with the query."""

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.target}"

    @property
    def place(self) -> str:
        """Its host, with the port where that is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def same_origin(self, other: "Url") -> bool:
        """Whether what is secret to one is no secret to the other."""
        return self[:3] == other[:3]

    def with_target(self, target: str) -> "Url":
        """Another target on the same host."""
        return self._replace(target=target)


def read_url_untrusted(text: str, base: Url | None = None) -> Url:
    """Read a URL, or what a ``Location`` says, relative to ``base``. Raises: OriginBroken."""
    try:
        parts: SplitResult = urlsplit(urljoin(str(base), text) if base else text)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "") if scheme else ""
    usable = scheme in _PORTS and host and target.isascii() and target.isprintable()
    if not usable or " " in target or not host.isascii() or len(text) > URL_CHARS_MAX:
        raise OriginBroken(f"{text[:200]!r} is not a URL that can be asked")
    return Url(scheme, host, port or _PORTS[scheme], target)


class Answer:
    """An answer's head, and its body to be read. Must be closed."""

    def __init__(self, url: Url, response: "httpcore2.Response") -> None:
        self.url: Final = url
        self.status: Final[int] = response.status
        self._headers: Final = [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in response.headers
        ]
        self._response: Final = response
        self._chunks: Final = _Chunks(url.place, response)

    def header(self, name: str) -> str | None:
        """The first header of that name, in lower case; None without one."""
        return next((value for key, value in self._headers if key == name), None)

    def headers(self, name: str) -> list[str]:
        """All headers of that name, in lower case."""
        return [value for key, value in self._headers if key == name]

    @property
    def length(self) -> int | None:
        """``Content-Length``; None where there is none."""
        text = self.header("content-length") or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    @property
    def media_type(self) -> str:
        """``Content-Type`` in lower case, without parameters; empty without one."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    async def read(self, bytes_max: int) -> bytes:
        """All of the body. Raises: OriginBroken beyond ``bytes_max``; as ``chunks``."""
        too_large = f"{self.url.place} sends more than {bytes_max} bytes where none are that large"
        if (self.length or 0) > bytes_max:
            raise OriginBroken(too_large)
        data = bytearray()
        chunks = self.chunks()
        while (chunk := await anext(chunks, None)) is not None:
            data += chunk
            if len(data) > bytes_max:
                raise OriginBroken(too_large)
        return bytes(data)

    async def read_some(self, bytes_max: int) -> bytes:
        """The body's beginning, if it arrives: an error's text, or nothing, to be done with it.

        With a short body read, and one that is not there, the connection can be kept.
        """
        data = b""
        try:
            with trio.move_on_after(PROBE_TIMEOUT_S):
                chunks = self.chunks()
                while len(data) <= bytes_max and (chunk := await anext(chunks, None)) is not None:
                    data += chunk
        except OriginUnavailable:
            pass
        return data[:bytes_max]

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, to be read once. Raises: OriginUnavailable when it breaks off."""
        return self._chunks

    async def aclose(self) -> None:
        """Give the connection back, or close it if there is more to come."""
        with trio.CancelScope(shield=True):
            await self._chunks.aclose()
            await self._response.aclose()


class _Chunks:
    """A class and not a generator, so that reading it need not be closed as well."""

    def __init__(self, place: str, response: "httpcore2.Response") -> None:
        self._place: Final = place
        self._source: Final = response.aiter_stream()

    async def aclose(self) -> None:
        await self._source.aclose()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        import httpcore2

        try:
            return await anext(self._source)
        except httpcore2.ReadTimeout:
            raise OriginUnavailable(
                f"{self._place} sent nothing for {STALL_TIMEOUT_S:g} s"
            ) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise OriginUnavailable(f"{self._place} broke off: {_reason(error)}") from None


class OriginHttp:
    """Asks hosts. ``serve`` should run meanwhile; cancelling it closes all connections."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._environ: Final = environ
        self._connect_timeout_s: Final = connect_timeout_s
        self._answer_timeout_s: Final = answer_timeout_s
        self._pools: dict[tuple[str, Trust, str | None], httpcore2.AsyncConnectionPool] = {}
        self._down: dict[tuple[str, str, int], _Down] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the HTTP library and probe what is down, until cancelled; then close connections."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep(PRELOAD_AFTER_S)
                await trio.to_thread.run_sync(importlib.import_module, "httpcore2")
                await trio.sleep_forever()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True):
                await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. More can be opened."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.aclose()

    async def ask(
        self,
        method: str,
        url: Url,
        *,
        trust: Trust,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Answer:
        """The head of the answer to one request.

        Raises: OriginUnavailable; OriginBroken for what is not HTTP.
        """
        self._check_down(url)
        started_s = trio.current_time()
        try:
            answer = await self._ask(method, url, trust, headers, body)
        except trio.Cancelled:
            if trio.current_time() - started_s >= PATIENCE_S:
                self._note_down(url, trust, f"{url.place} did not answer in time")
            raise
        except _Unreached as error:
            self._note_down(url, trust, str(error))
            raise OriginUnavailable(str(error)) from None
        self._down.pop(url[:3], None)
        return answer

    async def _ask(
        self,
        method: str,
        url: Url,
        trust: Trust,
        headers: Sequence[tuple[str, str]],
        body: bytes,
    ) -> Answer:
        import httpcore2

        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
            headers=[
                ("Host", url.place),
                ("User-Agent", USER_AGENT),
                ("Via", VIA),
                ("Accept-Encoding", "identity"),
                *([("Content-Length", str(len(body)))] if body else []),
                *headers,
            ],
            content=body,
            extensions={
                "timeout": {
                    "connect": self._connect_timeout_s,
                    "read": STALL_TIMEOUT_S,
                    "write": STALL_TIMEOUT_S,
                }
            },
        )
        pool = await self._pool(url, trust)
        try:
            with trio.fail_after(self._answer_timeout_s):
                return Answer(url, await pool.handle_async_request(request))
        except httpcore2.ConnectTimeout:
            why = f"no connection within {self._connect_timeout_s:g} s"
            raise _Unreached(f"{url.place} does not answer: {why}") from None
        except (trio.TooSlowError, httpcore2.TimeoutException):
            why = f"no answer within {self._answer_timeout_s:g} s"
            raise _Unreached(f"{url.place} does not answer: {why}") from None
        except (httpcore2.ConnectError, httpcore2.ProxyError) as error:
            raise _Unreached(_why_unreached(url, error)) from None
        except httpcore2.NetworkError as error:
            raise OriginUnavailable(
                f"{url.place} broke off: {_reason(error)}", again=True
            ) from None
        except httpcore2.ProtocolError as error:
            if "disconnected" in str(error):
                raise OriginUnavailable(
                    f"{url.place} closed without an answer", again=True
                ) from None
            raise OriginBroken(f"{url.place} does not speak HTTP: {_reason(error)}") from None
        except UnicodeError:  # a label of the name is too long for the DNS
            raise OriginBroken(f"{url.place[:200]} is not the name of a host") from None

    async def _pool(self, url: Url, trust: Trust) -> "httpcore2.AsyncConnectionPool":
        import httpcore2

        proxy_url = proxy_for(url.scheme, url.host, url.port, self._environ)
        key = (url.scheme, trust, proxy_url)
        pool = self._pools.get(key)
        if pool is not None:
            return pool
        context = None
        if url.scheme == "https":
            context = await trio.to_thread.run_sync(tls_context, trust)
        pool = self._pools.get(key)  # somebody else may have been as quick
        if pool is None:
            pool = httpcore2.AsyncConnectionPool(
                ssl_context=context,
                proxy=None if proxy_url is None else _proxy(proxy_url),
                max_connections=None,
                keepalive_expiry=KEEPALIVE_S,
            )
            self._pools[key] = pool
        return pool

    # Hosts that are down.

    def _check_down(self, url: Url) -> None:
        """Raises: OriginUnavailable where the host is known to be down."""
        down = self._down.get(url[:3])
        if down is None:
            return
        now_s = trio.current_time()
        down.asked_s = now_s
        if self._nursery is None and now_s >= down.until_s:
            down.until_s = now_s + DOWN_S  # this one may try; the others wait for what it finds
            return
        raise OriginUnavailable(f"{down.reason} (a moment ago; it is asked again by itself)")

    def _note_down(self, url: Url, trust: Trust, reason: str) -> None:
        now_s = trio.current_time()
        down = self._down.get(url[:3])
        if down is not None:
            down.reason, down.until_s = reason, now_s + DOWN_S
            return
        down = _Down(reason, now_s + DOWN_S, now_s)
        self._down[url[:3]] = down
        if len(self._down) > HOSTS_MAX:
            del self._down[next(iter(self._down))]
        if self._nursery is not None:
            self._nursery.start_soon(self._probe, url.with_target("/v2/"), trust, down)

    async def _probe(self, url: Url, trust: Trust, down: "_Down") -> None:
        """Ask until anything answers; what it says does not matter."""
        delays_s = iter(PROBE_DELAYS_S)
        while self._down.get(url[:3]) is down:
            await trio.sleep(next(delays_s, PROBE_INTERVAL_S))
            if trio.current_time() - down.asked_s > PROBED_S:
                break
            try:
                with trio.fail_after(PROBE_TIMEOUT_S):
                    answer = await self._ask("GET", url, trust, (), b"")
                    await answer.aclose()
                break
            except (_Unreached, OriginUnavailable, trio.TooSlowError) as error:
                down.reason = str(error) or down.reason
            except OriginBroken:
                break
        if self._down.get(url[:3]) is down:
            del self._down[url[:3]]


class _Unreached(Exception):
    """The host gave no answer at all; one line."""


class _Down:
    """A host that could not be reached."""

    __slots__ = ("asked_s", "reason", "until_s")

    def __init__(self, reason: str, until_s: float, asked_s: float) -> None:
        self.reason = reason
        self.until_s = until_s
        self.asked_s = asked_s


def tls_context(trust: Trust) -> ssl.SSLContext:
    """What checks certificates. Raises: OriginUnavailable for a file that cannot be used."""
    context = ssl.create_default_context()
    if trust.ca is not None:
        _load(trust.ca, lambda: context.load_verify_locations(trust.ca))
    if trust.certs is not None and trust.certs.is_dir():
        for path in sorted(trust.certs.glob("*.crt")):
            _load(path, lambda path=path: context.load_verify_locations(path))  # type: ignore[misc]
        for path in sorted(trust.certs.glob("*.cert")):
            key = path.with_suffix(".key")
            _load(path, lambda path=path, key=key: context.load_cert_chain(path, key))  # type: ignore[misc]
    return context


def _load(path: Path, load: Callable[[], T]) -> T:
    try:
        return load()
    except ssl.SSLError:
        raise OriginUnavailable(f"{path}: not a certificate (PEM)") from None
    except OSError as error:
        raise OriginUnavailable(f"{path}: cannot be read: {error.strerror}") from None


def _proxy(text: str) -> "httpcore2.Proxy":
    """Raises: OriginUnavailable."""
    import httpcore2

    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in _PORTS or not host or not host.isascii():
        raise OriginUnavailable("HTTPS_PROXY: not the URL of an HTTP proxy (http://HOST:PORT)")
    auth = None
    if parts.username is not None:
        auth = (parts.username, parts.password or "")
    url = httpcore2.URL(scheme=scheme, host=host, port=port or _PORTS[scheme], target="/")
    return httpcore2.Proxy(url, auth=auth)


def _why_unreached(url: Url, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"{url.place}: its certificate is not trusted ({cause.verify_message}); "
            f'name its authority: ca in [origins."…"] of beiran.toml'
        )
    if isinstance(cause, ssl.SSLError):
        hint = (
            "; plain HTTP needs plain_http or an http:// URL" if "WRONG_VER" in str(cause) else ""
        )
        return f"{url.place}: TLS fails ({cause.reason or _reason(error)}){hint}"
    return f"{url.place} cannot be reached: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """What happened, in the system's words where it had a say."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
            continue
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
