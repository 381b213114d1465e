"""Layer sizes from ``docker history``, which does not say which steps made a layer."""

import pytest

from beiran.engine.docker.docker_client import HistoryEntry
from beiran.engine.docker.graph_driver_store import sizes_from_history


def history(*steps: tuple[str, int]) -> list[HistoryEntry]:
    """Steps as a Dockerfile has them; the API has the newest first."""
    return [HistoryEntry(created_by=step, size=size) for step, size in reversed(steps)]


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [
        ([("COPY a", 5), ("COPY b", 3)], [5, 3]),
        ([("/bin/sh -c #(nop)  ENV A=1", 0), ("COPY a", 5), ("/bin/sh -c #(nop) CMD [x]", 0)], [5]),
        ([("COPY empty", 0), ("ENV A=1", 0), ("COPY b", 3)], [0, 3]),
        ([("ENV A=1", 0), ("RUN mkdir x", 0), ("COPY b", 3), ("WORKDIR /x", 0)], [0, 3, 0]),
        ([("WORKDIR /x", 0), ("COPY b", 3), ("RUN true", 0)], [0, 3]),
        ([], []),
    ],
)
def test_empty_steps_are_left_out(steps: list[tuple[str, int]], sizes: list[int]) -> None:
    assert sizes_from_history(history(*steps), len(sizes)) == sizes


@pytest.mark.parametrize(
    ("steps", "layers"), [([("COPY a", 5), ("COPY b", 3)], 1), ([("COPY a", 5)], 2), ([], 1)]
)
def test_history_that_does_not_fit_says_nothing(steps: list[tuple[str, int]], layers: int) -> None:
    assert sizes_from_history(history(*steps), layers) is None
