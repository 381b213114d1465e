"""Wait for changes in folders: inotify(7) through ctypes, with trio.

A Docker session and a layout folder watch their files through here.
"""

import ctypes
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

_CREATED: Final = 0x100
_DELETED: Final = 0x200
_DELETED_SELF: Final = 0x400
_MOVED_SELF: Final = 0x800
_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_WRITTEN: Final = 0x8  # IN_CLOSE_WRITE
_ONLY_FOLDERS: Final = 0x01000000
_WATCHED: Final = (
    _CREATED | _DELETED | _MOVED_FROM | _MOVED_TO | _WRITTEN | _DELETED_SELF | _MOVED_SELF
)
_READ_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


class FolderWatch:
    """A watch of several folders, each from the moment it exists."""

    def __init__(self, folders: Sequence[Path], otherwise_s: float) -> None:
        self._folders = folders
        self._otherwise_s = otherwise_s
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            self._warn("inotify", ctypes.get_errno())
        self._watch()

    async def changed(self) -> None:
        """Wait until something has changed since the last call.

        Where the kernel cannot watch, it returns after ``otherwise_s``.
        """
        self._watch()
        if self._fd < 0:
            await trio.sleep(self._otherwise_s)
            return
        await trio.lowlevel.wait_readable(self._fd)
        try:
            while os.read(self._fd, _READ_BYTES):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _watch(self) -> None:
        """Watch the folders that exist by now. One that is watched already stays so."""
        for folder in self._folders if self._fd >= 0 else ():
            flags = ctypes.c_uint32(_WATCHED | _ONLY_FOLDERS)
            if self._libc.inotify_add_watch(self._fd, os.fsencode(folder), flags) < 0:
                number = ctypes.get_errno()
                if number not in (errno.ENOENT, errno.ENOTDIR):
                    self._warn(str(folder), number)
                    self.close()
                    return

    def _warn(self, what: str, number: int) -> None:
        _log.warning(
            "%s cannot be watched (%s): the agent reads it every %g s instead",
            what,
            os.strerror(number),
            self._otherwise_s,
        )


@contextmanager
def watch_folders(folders: Sequence[Path], *, otherwise_s: float) -> Iterator[FolderWatch]:
    """A watch of ``folders`` that misses no change from now on.

    Args:
      folders: need not exist yet, except the first: its appearance would go unnoticed.
      otherwise_s: how often ``changed`` returns where the kernel cannot watch (no inotify, or no
        more watches), which is logged.
    """
    watch = FolderWatch(folders, otherwise_s)
    try:
        yield watch
    finally:
        watch.close()
