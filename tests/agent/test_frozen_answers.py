"""An agent answers as the release did whose answers are in ``frozen/answers.json``.

One scenario (``frozen/scenario.py``) with three agents asks every path of the API and of the
mirror, by HTTP and by WebSocket, rightly and wrongly; runs every command that reads with ``--output
json``; pulls; and reads the database. The file was recorded from commit bb783f4. Texts for people
may change, and nothing else without a reason: record the file anew with
``python -m tests.agent.frozen.scenario > tests/agent/frozen/answers.json``, and give the reason in
the commit.

``tests/gossip/test_codec.py`` and ``tests/swarm/test_codec.py`` freeze the bytes on the wire.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.agent.frozen.scenario import record

FROZEN: dict[str, Any] = json.loads((Path(__file__).parent / "frozen/answers.json").read_text())


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return record()


def test_the_same_is_asked(answers: dict[str, Any]) -> None:
    assert list(answers) == list(FROZEN)


@pytest.mark.parametrize("asked", FROZEN)
def test_the_answer_is_the_same(answers: dict[str, Any], asked: str) -> None:
    assert answers[asked] == FROZEN[asked]
