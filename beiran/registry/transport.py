"""HTTP to registries, their token servers and storage hosts, through httpx2.

One request, one answer: ``requests.py`` decides what redirects and challenges mean. httpx2 brings
connection pools, TLS, timeouts and proxies (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, and
``NO_PROXY`` with names, addresses, ports and CIDR ranges). Its redirects and cookies are off: both
would carry what one host said to another. Blob bytes come this way too. Measured, 1 GiB over
loopback, three runs: httpcore2 alone 1.3 CPU-s, httpx2's ``aiter_raw`` 1.4, which is noise.

The import takes 0.15 s of CPU and 3 MB (httpcore2 alone: 0.09 s, 0.8 MB), and the system's
certificates 0.06 s. Starting an agent does not wait for them.

A host that could not be reached is *down*: requests to it fail at once, while a task probes it. So
a registry that swallows packets costs one connection timeout, and not one with every pull.
"""

import importlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import trio
from cachetools import LRUCache

from beiran.registry.errors import OriginBroken, OriginUnavailable

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S: Final = 1.8
"""For the name, TCP and TLS each. Below the 2 s for which a tag resolution waits for the origin."""

# Chosen, not measured: they bound what a host that falls silent costs a request.
ANSWER_TIMEOUT_S: Final = 10.0
STALL_TIMEOUT_S: Final = 20.0
PATIENCE_S: Final = 1.5
"""A request that its caller cancels after this many seconds without an answer marks the host down.
Below CONNECT_TIMEOUT_S, since a tag resolution cancels after 2 s."""

KEEPALIVE_S: Final = 15.0  # chosen: the requests of one pull share connections, the next pull pays
PROBE_DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
PROBE_INTERVAL_S: Final = 15.0
PROBE_TIMEOUT_S: Final = 2.0
PROBED_S: Final = 600.0
"""A host that no request was for in this many seconds is not probed any more."""

PRELOAD_AFTER_S: Final = 1.0
"""httpx2 is imported this long after the agent's start: its first pull need not wait for it."""

HOSTS_MAX: Final = 1000  # that are down at once
URL_CHARS_MAX: Final = 8192  # bounds what a ``Location`` can have us keep and send
CERTS_DIR: Final = Path("/etc/docker/certs.d")
USER_AGENT: Final = "beiran"
VIA: Final = "1.1 beiran"
"""A mirror of ours refuses a request with this: an agent would ask itself."""

_PORTS: Final = {"http": 80, "https": 443}
T = TypeVar("T")


class Trust(NamedTuple):
    """The authorities of a registry's certificate beside the system's, and our own certificate.

    ``ca`` is a file with authorities. ``certs`` is Docker's folder for that registry: ``*.crt``
    are authorities, ``*.cert`` with ``*.key`` is our own certificate.
    """

    ca: Path | None = None
    certs: Path | None = None


class Url(NamedTuple):
    """A URL that ``read_url_untrusted`` checked. ``target`` is its path with the query."""

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.target}"

    @property
    def place(self) -> str:
        """Its host, with the port unless that is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def same_origin(self, other: "Url") -> bool:
        """Whether both have one scheme, host and port, so that credentials for one are for both."""
        return self[:3] == other[:3]

    def with_target(self, target: str) -> "Url":
        """Another target on the same host."""
        return self._replace(target=target)


def read_url_untrusted(text: str, base: Url | None = None) -> Url:
    """Read a URL, or a ``Location`` relative to ``base``. Raises: OriginBroken."""
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


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its name or address alone; no DNS is asked."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Answer:
    """An answer's head, and its body to be read. Must be closed."""

    def __init__(self, url: Url, response: "httpx2.Response") -> None:
        self.url: Final = url
        self.status: Final = response.status_code
        self._response: Final = response
        self._chunks: Final = _Chunks(url.place, response)

    def header(self, name: str) -> str | None:
        """The first header of that name; None without one."""
        return next(iter(self.headers(name)), None)

    def headers(self, name: str) -> list[str]:
        """All headers of that name."""
        return self._response.headers.get_list(name)

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
        too_large = f"{self.url.place} sends more than {bytes_max} bytes, the limit of such answers"
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
        """At most ``bytes_max`` bytes of the body, such as an error's text; fewer if it breaks off.

        A connection is kept only after its answer was read to the end.
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
            await self._response.aclose()
            await self._chunks.end()


class _Chunks:
    """The body as it comes. Unlike a generator, its reader need not close it."""

    def __init__(self, place: str, response: "httpx2.Response") -> None:
        self._place: Final = place
        self._source: Final = response.aiter_raw()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        import httpx2

        try:
            return await anext(self._source)
        except httpx2.ReadTimeout:
            raise OriginUnavailable(
                f"{self._place} sent nothing for {STALL_TIMEOUT_S:g} s"
            ) from None
        except (httpx2.NetworkError, httpx2.ProtocolError) as error:
            raise OriginUnavailable(f"{self._place} broke off: {_reason(error)}") from None

    async def end(self) -> None:
        """Run the generators out after the response was closed.

        httpx2 nests four, and closing the outermost leaves the others to the garbage collector,
        of which trio warns. On a closed response the next read ends them all with an error.
        """
        import httpx2

        with suppress(httpx2.TransportError, httpx2.StreamError):
            async for _ in self._source:
                pass


class _ClientKey(NamedTuple):
    """What decides how a connection is made. Certificates of one registry are for it alone."""

    scheme: str
    trust: Trust
    direct: bool
    """Past any proxy, as Go's programs reach loopback. The others obey the environment."""


class OriginHttp:
    """Sends requests to hosts, and remembers which are down.

    Args:
      nursery: runs the probes. ``aclose`` closes the connections after it has ended.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._nursery: Final = nursery
        self._connect_timeout_s: Final = connect_timeout_s
        self._answer_timeout_s: Final = answer_timeout_s
        self._clients: dict[_ClientKey, httpx2.AsyncClient] = {}
        self._down: LRUCache[tuple[str, str, int], _Down] = LRUCache(HOSTS_MAX)

    async def preload(self) -> None:
        """Import httpx2 in a thread, ``PRELOAD_AFTER_S`` from now."""
        await trio.sleep(PRELOAD_AFTER_S)
        await trio.to_thread.run_sync(importlib.import_module, "httpx2")

    async def aclose(self) -> None:
        """Close all connections."""
        with trio.CancelScope(shield=True):
            for client in self._clients.values():
                await client.aclose()

    async def ask(
        self,
        method: str,
        url: Url,
        *,
        trust: Trust,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Answer:
        """Send a request; the head of its answer.

        Raises: OriginUnavailable; OriginBroken for an answer that is not HTTP.
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
        import httpx2

        client = await self._client(url, trust)
        try:
            request = client.build_request(
                method,
                str(url.with_target("/")),
                headers=list(headers),
                content=body or None,
                extensions={"target": url.target.encode("ascii")},  # signed: not to be re-encoded
            )
            with trio.fail_after(self._answer_timeout_s):
                return Answer(url, await client.send(request, stream=True))
        except httpx2.ConnectTimeout:
            why = f"no connection within {self._connect_timeout_s:g} s"
            raise _Unreached(f"{url.place} does not answer: {why}") from None
        except (trio.TooSlowError, httpx2.TimeoutException):
            why = f"no answer within {self._answer_timeout_s:g} s"
            raise _Unreached(f"{url.place} does not answer: {why}") from None
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise _Unreached(_why_unreached(url, error)) from None
        except httpx2.NetworkError as error:
            raise OriginUnavailable(
                f"{url.place} broke off: {_reason(error)}", again=True
            ) from None
        except httpx2.ProtocolError as error:
            if "disconnected" in str(error):
                raise OriginUnavailable(
                    f"{url.place} closed without an answer", again=True
                ) from None
            raise OriginBroken(f"{url.place} does not speak HTTP: {_reason(error)}") from None
        except (httpx2.InvalidURL, UnicodeError):  # a label of the name is too long for the DNS
            raise OriginBroken(f"{url.place[:200]} is not the name of a host") from None

    async def _client(self, url: Url, trust: Trust) -> "httpx2.AsyncClient":
        key = _ClientKey(url.scheme, trust, is_loopback(url.host))
        found = self._clients.get(key)
        if found is not None:
            return found
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for plain HTTP: never used
        if url.scheme == "https":
            context = await trio.to_thread.run_sync(tls_context, trust)
        # Another task may have made it while the certificates were loaded.
        return self._clients.get(key) or self._clients.setdefault(key, self._make(key, context))

    def _make(self, key: _ClientKey, context: ssl.SSLContext) -> "httpx2.AsyncClient":
        """Raises: OriginUnavailable when the environment names a proxy that is none."""
        from http.cookiejar import DefaultCookiePolicy

        import httpx2

        try:
            client = httpx2.AsyncClient(
                verify=context,
                trust_env=not key.direct,
                headers={"User-Agent": USER_AGENT, "Via": VIA, "Accept-Encoding": "identity"},
                limits=httpx2.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_S),
                timeout=httpx2.Timeout(STALL_TIMEOUT_S, connect=self._connect_timeout_s, pool=None),
            )
        except (ValueError, ImportError, httpx2.InvalidURL):  # ImportError: SOCKS
            raise OriginUnavailable(
                "HTTPS_PROXY: not the URL of an HTTP proxy (http://HOST:PORT)"
            ) from None
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return client

    # Hosts that are down.

    def _check_down(self, url: Url) -> None:
        """Raises: OriginUnavailable where the host is known to be down."""
        down = self._down.get(url[:3])
        if down is not None:
            down.asked_s = trio.current_time()
            raise OriginUnavailable(f"{down.reason} (a moment ago; the agent asks it again)")

    def _note_down(self, url: Url, trust: Trust, reason: str) -> None:
        down = self._down.get(url[:3])
        if down is not None:
            down.reason = reason
            return
        if self._nursery.cancel_scope.cancel_called:
            return
        down = self._down[url[:3]] = _Down(reason, trio.current_time())
        self._nursery.start_soon(self._probe, url.with_target("/v2/"), trust, down)

    async def _probe(self, url: Url, trust: Trust, down: "_Down") -> None:
        """Send requests until any answer comes, whatever it says."""
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
    """A host that could not be reached: why, and when a request was for it last."""

    __slots__ = ("asked_s", "reason")

    def __init__(self, reason: str, asked_s: float) -> None:
        self.reason = reason
        self.asked_s = asked_s


def tls_context(trust: Trust) -> ssl.SSLContext:
    """A context that checks certificates. Raises: OriginUnavailable for a file of no use."""
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
    """The cause in the system's words (strerror) where there is one, else the library's."""
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
