"""The trace of a run: one line for each thing that happens, and a hash of all lines.

    1.204518233 h3 hears 10.0.0.2 11 58 9f2c41aa

Virtual time, host, event; for a packet its source, kind, length, and a hash of its bytes. Two runs
of one commit with the same seed give the same lines in any process.
"""

import hashlib
from typing import TextIO


class Trace:
    """Takes lines: ``world.trace = Trace(file).line``.

    Args:
      file: receives the lines; None keeps only the hash.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.lines = 0

    def line(self, text: str) -> None:
        """Add a line."""
        self.lines += 1
        self._hash.update(text.encode() + b"\n")
        if self._file is not None:
            self._file.write(text + "\n")

    @property
    def digest(self) -> str:
        """The SHA-256 of all lines."""
        return self._hash.hexdigest()
