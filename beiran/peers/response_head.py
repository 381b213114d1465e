"""Read the head of an agent's answer to a request for a range of a blob.

By hand, as part of the measured receive path: see ``blob_fetch.py``. Strict reading by regular
expressions takes a tenth of h11's time. Only agents answer here, so that a head which this does
not accept is an error, and its connection is closed.
"""

import re
from typing import Final

from msgspec import Struct

from beiran.errors import RemoteProtocolError

HEAD_BYTES_MAX: Final = 16 * 1024  # as our server limits requests; an agent writes some 300 bytes
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [^\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_RETRY_S: Final = re.compile(rb"[0-9]{1,5}")


class BadAnswer(RemoteProtocolError):
    """A peer's answer is not HTTP, or not the range that was requested."""


class OtherSize(BadAnswer):
    """The peer has a blob of another size under that digest, which cannot be the right one."""


class RangeHead(Struct, frozen=True):
    """The parts of a head that a fetch needs.

    Attributes:
      length: bytes of the body.
      range: of a 206, the first byte, the byte after the last, and the size of the blob.
      reusable: whether the connection stays open after the body.
    """

    status: int
    length: int
    range: tuple[int, int, int] | None = None
    reusable: bool = True
    retry_after_s: float | None = None

    def check_range(self, start: int, end: int, size: int) -> None:
        """Raises: BadAnswer for another range; OtherSize for a blob of another size."""
        if self.range is not None and self.range[2] != size:
            raise OtherSize(
                f"requested a blob of {size} bytes, the peer has one of {self.range[2]}"
            )
        offered = self.range if self.status == 206 else (0, self.length, self.length)
        if offered != (start, end, size) or self.length != end - start:
            raise BadAnswer(f"requested bytes {start}-{end} of {size}, the peer sends {offered}")


def read_head(received: bytes | bytearray) -> tuple[RangeHead, int] | None:
    """The head at the beginning of ``received``, and its length; None while it is incomplete.

    Raises: BadAnswer.
    """
    end = received.find(_END, 0, HEAD_BYTES_MAX)
    if end < 0:
        if len(received) >= HEAD_BYTES_MAX:
            raise BadAnswer(f"the head of the answer has over {HEAD_BYTES_MAX} bytes")
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
        raise BadAnswer("the answer has no Content-Length")
    covered = None
    if status == 206:
        match = _RANGE.fullmatch(fields.get(b"content-range", b""))
        if match is None:
            raise BadAnswer("the answer is a 206 without a Content-Range")
        covered = (int(match[1]), int(match[2]) + 1, int(match[3]))
    retry = fields.get(b"retry-after", b"")
    return RangeHead(
        status,
        int(length),
        covered,
        reusable=b"close" not in fields.get(b"connection", b"").lower(),
        retry_after_s=float(retry) if _RETRY_S.fullmatch(retry) else None,
    )
