"""Whatever clients send on the TCP port: no crash, no 500, no change, and the next is served.

python -m tests.fuzz.fuzz_http [libFuzzer's options]
"""

import atexit
from contextlib import ExitStack

from tests.fuzz.harness import instrumented, run_fuzzer

with instrumented("beiran", "h11", "wsproto"):
    from tests.fuzz.one_listener import open_one_listener

SEEDS = (
    b"\x01GET /info HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x01POST /gossip HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
    b"\x01HEAD /layers?all=true HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n",
    b"\x01GET /nodes HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
)

if __name__ == "__main__":
    with ExitStack() as stack:
        listener = stack.enter_context(open_one_listener())
        atexit.register(stack.close)  # libFuzzer ends the process itself
        run_fuzzer("http", listener.connect, seeds=SEEDS, options=("-timeout=60",))
