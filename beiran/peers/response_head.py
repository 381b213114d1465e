"""The head of an answer with a range of a blob, as an agent writes it.

Some ten lines: they are read here, strictly, which takes a tenth of what h11 takes. Whatever else
comes is no agent, and its connection is of no use.
"""

import re
from typing import Final

from msgspec import Struct

from beiran.errors import RemoteProtocolError

HEAD_BYTES_MAX: Final = 16 * 1024
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [^\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_RETRY_S: Final = re.compile(rb"[0-9]{1,5}")


class BadAnswer(RemoteProtocolError):
    """A peer's answer cannot be read, or is not what was asked for."""


class OtherSize(BadAnswer):
    """It is of a blob of another size: who says so has not the one that was asked for."""


class RangeHead(Struct, frozen=True):
    """What matters of a head.

    Attributes:
      length: bytes of the body.
      range: first byte, one after the last, size of the blob; of a 206.
      reusable: whether the connection stays open after the body.
    """

    status: int
    length: int
    range: tuple[int, int, int] | None = None
    reusable: bool = True
    retry_after_s: float | None = None

    def check_range(self, start: int, end: int, size: int) -> None:
        """Raises: BadAnswer when it is not this range; OtherSize when the blob has another."""
        if self.range is not None and self.range[2] != size:
            raise OtherSize(f"asked for a blob of {size} bytes, it gives one of {self.range[2]}")
        offered = self.range if self.status == 206 else (0, self.length, self.length)
        if offered != (start, end, size) or self.length != end - start:
            raise BadAnswer(f"asked for bytes {start}-{end} of {size}, it gives {offered}")


def read_head(received: bytes | bytearray) -> tuple[RangeHead, int] | None:
    """The head at the beginning of what came, and its length; None when more has to come.

    Raises: BadAnswer.
    """
    end = received.find(_END, 0, HEAD_BYTES_MAX)
    if end < 0:
        if len(received) >= HEAD_BYTES_MAX:
            raise BadAnswer(f"a head of over {HEAD_BYTES_MAX} bytes")
        return None
    first, *lines = bytes(received[:end]).split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise BadAnswer("the answer is not HTTP/1.1")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadAnswer("the answer's head is not HTTP")
        name, value = match[1].lower(), match[2]
        if fields.setdefault(name, value) != value and name in _ONCE:
            raise BadAnswer(f"several values of {name.decode()}")
    return _head(int(status[1]), fields), end + len(_END)


_ONCE: Final = (b"content-length", b"content-range", b"transfer-encoding")


def _head(status: int, fields: dict[bytes, bytes]) -> RangeHead:
    length = fields.get(b"content-length", b"")
    if b"transfer-encoding" in fields or not _LENGTH.fullmatch(length):
        raise BadAnswer("an answer whose length is not told")
    covered = None
    if status == 206:
        match = _RANGE.fullmatch(fields.get(b"content-range", b""))
        if match is None:
            raise BadAnswer("a 206 that does not say which range it is")
        covered = (int(match[1]), int(match[2]) + 1, int(match[3]))
    retry = fields.get(b"retry-after", b"")
    return RangeHead(
        status,
        int(length),
        covered,
        reusable=b"close" not in fields.get(b"connection", b"").lower(),
        retry_after_s=float(retry) if _RETRY_S.fullmatch(retry) else None,
    )
