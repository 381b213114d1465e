"""Everything that the agent counts: values for ``/info``, and values with help for ``/metrics``.

The help of a counter stands beside its definition, in the package that counts it: a table of names
(``gossip/counters.py``, ``swarm/counters.py``), or a Struct whose fields are annotated with a
description (``http/server.py``). ``agent.py`` lists the groups; ``status.py`` and ``metrics.py``
read them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct


class CounterGroup(Struct, frozen=True, kw_only=True):
    """Counters that one part of the agent keeps.

    Attributes:
      help: one line for each counter, by name.
      values: returns the counts since the start; a counter that is missing is 0.
      prefix: stands before each name in ``/info`` and ``/metrics``.
    """

    help: Mapping[str, str]
    values: Callable[[], Mapping[str, int]]
    prefix: str = ""


class Counters:
    """All counters of one agent, by name."""

    def __init__(self, groups: Sequence[CounterGroup]) -> None:
        self._groups: Final = groups
        self.help: Final[Mapping[str, str]] = {
            group.prefix + name: text for group in groups for name, text in group.help.items()
        }

    def values(self) -> dict[str, int]:
        """Counts since the start, sorted by name; 0 for what has not happened yet."""
        counts = dict.fromkeys(self.help, 0)
        for group in self._groups:
            counts |= {group.prefix + name: value for name, value in group.values().items()}
        return dict(sorted(counts.items()))


def counters_of(struct: Struct, *, prefix: str = "") -> CounterGroup:
    """The integer fields of ``struct``, each annotated with ``Meta(description=…)``."""
    schema = msgspec.json.schema(type(struct))
    fields = schema["$defs"][type(struct).__name__]["properties"]
    return CounterGroup(
        help={name: field["description"] for name, field in fields.items()},
        values=lambda: msgspec.to_builtins(struct),
        prefix=prefix,
    )
