"""The event streams of all programs under test, on one clock.

One thread reads every stream and notes ``time.monotonic()`` at arrival, so that all programs are
late by the same few hundred microseconds.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

READ_BYTES: Final = 1 << 16

What = Literal["online", "suspect", "offline", "left", "news", "restarted"]
Feed = Callable[[bytes], Iterable[tuple[What, str]]]
"""Takes the bytes of a stream as they come; gives what they say, and of whom (or which news)."""


class Sighting(NamedTuple):
    """``observer`` says that ``subject`` is ``what`` now; if ``restarted``, nothing is seen."""

    at: float
    observer: str
    what: What
    subject: str


class Chronicle:
    """Everything that was seen, in order of arrival. Use it in a ``with`` block."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self._grown = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._added: list[tuple[int, str, Feed]] = []
        self._thread = threading.Thread(target=self._read, name="chronicle", daemon=True)
        self._open = True

    def __enter__(self) -> Self:
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        self._wake.send(b"x")
        self._thread.join()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def watch(self, stream: int, observer: str, feed: Feed) -> None:
        """Read this file descriptor to its end. It is duplicated: the caller closes its own."""
        copy = os.dup(stream)
        os.set_blocking(copy, False)
        with self._grown:
            self._added.append((copy, observer, feed))
        self._wake.send(b"x")

    def note(self, observer: str, said: Iterable[tuple[What, str]]) -> None:
        """Add what was learnt by asking, as seen now."""
        now = time.monotonic()
        with self._grown:
            self.sightings += [Sighting(now, observer, what, subject) for what, subject in said]
            self._grown.notify_all()

    def mark(self) -> int:
        """Where the chronicle ends now, for ``since``."""
        with self._grown:
            return len(self.sightings)

    def first(
        self,
        what: What,
        subject: str,
        observers: Collection[str],
        *,
        since: int,
        timeout_s: float,
        enough: int | None = None,
    ) -> dict[str, float]:
        """When each observer first saw ``subject`` be ``what``.

        Returns: times by observer, as soon as all (or ``enough``) of them did; fewer when
        ``timeout_s`` has passed.
        """
        wanted = set(observers)
        least = len(wanted) if enough is None else enough
        found: dict[str, float] = {}
        deadline = time.monotonic() + timeout_s
        position = since
        with self._grown:
            while True:
                for seen in self.sightings[position:]:
                    if seen.what == what and seen.subject == subject and seen.observer in wanted:
                        found.setdefault(seen.observer, seen.at)
                position = len(self.sightings)
                if len(found) >= least or not self._grown.wait(deadline - time.monotonic()):
                    return found

    def since(self, mark: int) -> list[Sighting]:
        """Everything seen after ``mark``."""
        with self._grown:
            return self.sightings[mark:]

    def all_see(
        self, subjects: Collection[str], observers: Collection[str], *, since: int, timeout_s: float
    ) -> float | None:
        """When every observer saw every subject (itself aside) online, by what it said last.

        Returns: the time of the last change that made it so, or None after ``timeout_s``.
        """
        pending = {(a, b) for a in observers for b in subjects if a != b}
        everything = frozenset(pending)
        deadline = time.monotonic() + timeout_s
        position = since
        last = 0.0
        with self._grown:
            while True:
                for seen in self.sightings[position:]:
                    if seen.what == "restarted":
                        pending |= {pair for pair in everything if pair[0] == seen.observer}
                    pair = (seen.observer, seen.subject)
                    if pair not in everything:
                        continue
                    if seen.what in ("online", "suspect"):
                        if pair in pending:
                            last = seen.at
                        pending.discard(pair)
                    else:
                        pending.add(pair)
                position = len(self.sightings)
                if not pending:
                    return last
                if not self._grown.wait(deadline - time.monotonic()):
                    return None

    def _read(self) -> None:
        while self._open:
            ready = self._selector.select()
            now = time.monotonic()
            news: list[Sighting] = []
            for key, _ in ready:
                if key.fileobj is self._woken:
                    self._woken.recv(READ_BYTES)
                    self._take_added()
                    continue
                observer, feed = key.data
                try:
                    data = os.read(key.fd, READ_BYTES)
                except OSError:
                    data = b""
                if not data:
                    self._forget(key.fd)
                    continue
                news += [Sighting(now, observer, what, subject) for what, subject in feed(data)]
            if news:
                with self._grown:
                    self.sightings += news
                    self._grown.notify_all()
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._woken:
                self._forget(key.fd)

    def _take_added(self) -> None:
        with self._grown:
            added, self._added = self._added, []
        for stream, observer, feed in added:
            self._selector.register(stream, selectors.EVENT_READ, (observer, feed))

    def _forget(self, stream: int) -> None:
        self._selector.unregister(stream)
        with contextlib.suppress(OSError):
            os.close(stream)


def by_line(read: Callable[[bytes], tuple[What, str] | None]) -> Feed:
    """A feed for streams of lines: ``read`` gives what a line says, or None."""
    rest = bytearray()

    def feed(data: bytes) -> Iterable[tuple[What, str]]:
        rest.extend(data)
        *lines, last = bytes(rest).split(b"\n")
        rest[:] = last
        return [said for line in lines if (said := read(line)) is not None]

    return feed
