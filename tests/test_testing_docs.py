"""``testing.md`` names every test module, and ``benchmarks.md`` every experiment."""

import re
from pathlib import Path

from benchmarks.gossip import EXPERIMENTS
from benchmarks.pull import PULL_EXPERIMENTS
from benchmarks.pull_report import PULL_FIGURES
from benchmarks.report import FIGURES

ROOT = Path(__file__).parent.parent
TESTING = (ROOT / "docs" / "contributing" / "testing.md").read_text()
BENCHMARKS = (ROOT / "docs" / "explanation" / "benchmarks.md").read_text()
PATH = re.compile(r"`(tests/[\w/.]+)`")


def test_every_test_module_is_in_the_scenarios() -> None:
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "__pycache__" not in path.parts
    }
    assert modules - set(PATH.findall(TESTING)) == set()


def test_every_file_in_the_scenarios_exists() -> None:
    assert [path for path in PATH.findall(TESTING) if not (ROOT / path).exists()] == []


def test_every_experiment_is_documented_and_no_other() -> None:
    assert re.findall(r"^\| `(\w+)` \|", BENCHMARKS, re.MULTILINE) == [
        *EXPERIMENTS,
        *PULL_EXPERIMENTS,
    ]


def test_every_target_is_documented() -> None:
    missing = [
        figure.text
        for figure in FIGURES
        if figure.most is not None and f"`{figure.key}`" not in BENCHMARKS
    ]
    assert missing == []


def test_every_target_of_the_pull_benchmark_is_documented() -> None:
    missing = [
        figure.text
        for figure in PULL_FIGURES
        if (figure.most is not None or figure.least is not None)
        and f"`{figure.key}`" not in BENCHMARKS
    ]
    assert missing == []
