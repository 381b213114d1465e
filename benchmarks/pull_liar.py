"""A misbehaving agent, which flips a bit in each 256 KiB that it sends to peers.

Run as ``python -m benchmarks.pull_liar`` with the options of ``beirand``. This process changes only
its answers: what it fetches, announces and gives to its own engine is right.
"""

import os
from collections.abc import AsyncIterator
from typing import Final

from beiran.http.messages import FileSlice, Request, Response
from beiran.ids import Digest
from beiran.transfer.uploads import Uploads
from beiran_cli.main import main_agent

CHUNK_BYTES: Final = 256 * 1024

_answer_rightly = Uploads.answer


async def _answer_wrongly(self: Uploads, request: Request, digest: Digest) -> Response:
    response = await _answer_rightly(self, request, digest)
    if isinstance(response.body, FileSlice):
        response.length = response.body.length
        response.body = _flipped(response.body)
    return response


async def _flipped(body: FileSlice) -> AsyncIterator[bytes]:
    try:
        position, end = body.start, body.start + body.length
        while position < end:
            until = min(end, position + CHUNK_BYTES)
            if body.gate is not None:
                until = min(until, await body.gate(position, until))
            data = bytearray(os.pread(body.descriptor, until - position, position))
            data[0] ^= 1
            position = until
            yield bytes(data)
    finally:
        os.close(body.descriptor)


if __name__ == "__main__":
    Uploads.answer = _answer_wrongly  # type: ignore[method-assign]
    main_agent()
