"""The same seed gives the same trace, byte for byte, in any process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.explore.clusters import generate
from simulations.gossip.scenario import play
from simulations.gossip.world import World
from simulations.kernel.trace import Trace

ROOT = Path(__file__).parents[3]


SEED = 26
"""Its scenario has clones, restarts, splits, babble and an older wire version in it."""


def trace_of(seed: int) -> Trace:
    trace = Trace()

    def prepare(world: World) -> None:
        world.trace = trace.line

    play(generate(seed), prepare=prepare)
    return trace


def trace_with_hash_seed(hash_seed: str, file: Path) -> bytes:
    subprocess.run(
        [
            *(sys.executable, "-m", "simulations", "run", repr(generate(SEED))),
            *("--trace", str(file)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
    )
    return file.read_bytes()


def test_two_processes_with_other_hash_seeds_give_one_trace(tmp_path: Path) -> None:
    first = trace_with_hash_seed("1", tmp_path / "first")
    second = trace_with_hash_seed("2", tmp_path / "second")
    assert len(first) > 10_000
    assert first == second


def test_another_seed_gives_another_trace() -> None:
    assert trace_of(1).digest != trace_of(2).digest


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    assert trace_of(seed).digest == trace_of(seed).digest
