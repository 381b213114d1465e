"""Layer sizes from ``docker history``, for where the engine's files cannot be read."""

import re
from collections.abc import Sequence
from typing import Final

from beiran.engine.docker.docker_client import HistoryEntry

_NO_LAYER: Final = re.compile(
    r"(/bin/sh -c #\(nop\) +)?"
    r"(ARG|CMD|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|SHELL|STOPSIGNAL|USER"
    r"|VOLUME) "
)
"""Steps of a Dockerfile that never make a layer."""


def sizes_from_history(newest_first: Sequence[HistoryEntry], layers: int) -> list[int] | None:
    """Bytes of the files in each layer, the base first.

    The API does not say which steps made no layer. Those with files in them did; of the empty
    ones, those that surely made none are left out first.

    Returns: None where the history does not fit the layers (it can be changed at will).
    """
    steps = list(reversed(newest_first))
    surplus = len(steps) - layers
    for never in (True, False):
        for index in reversed(range(len(steps))):
            empty = steps[index].size == 0
            if (
                surplus > 0
                and empty
                and (bool(_NO_LAYER.match(steps[index].created_by)) or not never)
            ):
                del steps[index]
                surplus -= 1
    sizes = [step.size for step in steps]
    return sizes if len(sizes) == layers else None
