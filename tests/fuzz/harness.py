"""Starting libFuzzer: what all fuzz targets have in common."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import atheris

FINDINGS = Path("fuzz-findings")


@contextmanager
def instrumented(*packages: str) -> Iterator[None]:
    """Instrument the modules of ``packages`` imported inside: libFuzzer sees the lines they run."""
    with atheris.instrument_imports(include=list(packages)):
        yield


def run_fuzzer(
    name: str,
    test_one_input: Callable[[bytes], None],
    *,
    max_len: int = 1400,
    seeds: Sequence[bytes] = (),
    options: Sequence[str] = (),
) -> None:
    """Fuzz until the options on the command line say stop (``-runs=1000000``), or forever.

    Inputs that reach something new are kept in ``fuzz-findings/NAME-corpus`` and are where the
    next run starts; one that breaks something ends the run and is ``fuzz-findings/NAME-crash-…``.
    """
    corpus = FINDINGS / f"{name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    given = [
        f"-artifact_prefix={FINDINGS}/{name}-",
        f"-max_len={max_len}",
        "-timeout=10",
        "-len_control=0",  # a message is long enough from the start, or it is none
        *options,
        *sys.argv[1:],
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *given], test_one_input)
    atheris.Fuzz()
