"""Whatever peers send, and whenever: what must be true of the core stays true.

python -m tests.fuzz.fuzz_node [libFuzzer's options]
"""

from tests.fuzz.harness import instrumented, run_fuzzer

with instrumented("beiran.gossip"):
    from tests.fuzz.one_node import run


def test_one_input(data: bytes) -> None:
    """See `tests.fuzz.one_node`."""
    run(data)


if __name__ == "__main__":
    run_fuzzer("node", test_one_input, max_len=160)
