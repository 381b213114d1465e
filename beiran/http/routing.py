"""Find the route for the head of an HTTP request. ``server.py`` calls it for each request."""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs, unquote_to_bytes

import h11
from msgspec import Struct
from msgspec.structs import replace

from beiran.errors import ApiError, BadRequest, NotFound
from beiran.http.messages import PATH_CHARS_MAX, HttpError, Listener, Request, Response, Route

QUERY_FIELDS_MAX: Final = 32  # routes take a few each; bounds the parsing; chosen

_AUTHORITY: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Match(Struct, frozen=True):
    """The route for a request, and the request without its body."""

    route: Route
    request: Request
    head_only: bool


class RouteTable:
    """The routes of one listener."""

    def __init__(self, routes: Sequence[Route], listener: Listener) -> None:
        self._listener: Final = listener
        self._routes: Final = [
            (route.regex(), route) for route in routes if listener in route.listeners
        ]
        self._named: Final = frozenset(route.pattern for _, route in self._routes)

    def match(self, head: h11.Request, peer: str) -> Match:
        """The first route whose pattern and method fit.

        Raises: ApiError: 400 for a target that is not readable, 404 for a path that no route has,
        405 (with ``Allow``) for a method that the path does not have, 414.
        """
        path, query = _read_target(head.target)
        method = head.method.decode("ascii")
        wanted = "GET" if method == "HEAD" else method
        request = Request(
            method=method,
            path=path,
            listener=self._listener,
            query=query,
            headers=_read_headers(head),
            peer=peer,
        )
        allowed: set[str] = set()
        for regex, route in self._routes:
            found = regex.fullmatch(path)
            if found is None or (path in self._named and _is_any_name(route.pattern)):
                continue
            if route.method == wanted:
                request = replace(request, path_args=found.groupdict())
                return Match(route, request, method == "HEAD")
            allowed.add(route.method)
        if not allowed:
            raise NotFound("NOT_FOUND", f"there is nothing at {path}")
        allow = _allow_header(allowed)
        if method == "OPTIONS":
            return Match(_options_route(path, allow), request, False)
        raise HttpError(405, "METHOD_NOT_ALLOWED", f"{path} does not answer {method}", [allow])


def _is_any_name(pattern: str) -> bool:
    """Whether it takes any name where another route may have a fixed one: ``/blobs/{digest}``."""
    return "{" in pattern and ":path}" not in pattern


def _allow_header(methods: set[str]) -> tuple[str, str]:
    more = {"OPTIONS", "HEAD"} if "GET" in methods else {"OPTIONS"}
    return ("Allow", ", ".join(sorted(methods | more)))


def _options_route(path: str, allow: tuple[str, str]) -> Route:
    """A route that answers OPTIONS (RFC 9110 §9.3.7) where there is none."""

    async def answer(request: Request) -> Response:
        return Response(status=204, headers=[allow])

    return Route(method="OPTIONS", pattern=path, handler=answer)


def _read_target(target: bytes) -> tuple[str, dict[str, list[str]]]:
    """Path and query of a request target in origin form or absolute form (RFC 9112 §3.2)."""
    if len(target) > PATH_CHARS_MAX:
        raise ApiError(414, "URI_TOO_LONG", f"the request target is over {PATH_CHARS_MAX} bytes")
    text = _AUTHORITY.sub("", target.decode("ascii"), count=1)
    raw_path, _, raw_query = text.partition("?")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
        query = parse_qs(
            raw_query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX
        )
    except ValueError:
        raise BadRequest("the path or the query is not valid (percent-encoded UTF-8)") from None
    if not path.startswith("/") or any(ord(char) < 0x20 or char == "\x7f" for char in path):
        raise BadRequest("the path does not begin with a slash, or has control characters")
    return path, query


def _read_headers(head: h11.Request) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in head.headers:
        headers.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
    return headers
