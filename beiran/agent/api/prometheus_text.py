"""Write metrics in the text format of Prometheus. ``agent/metrics.py`` has the metrics.

Source: "Exposition formats", text format 0.0.4, in the Prometheus documentation.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from msgspec import Struct, field

METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Sample(Struct, frozen=True):
    """One value of a metric."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Metric(Struct, frozen=True):
    """A metric and its values.

    Attributes:
      name: with its unit last, ``_total`` for a counter; ``beiran_`` in front.
      help: one line for the operator.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[Sample, ...]


def metrics_text(metrics: Iterable[Metric]) -> bytes:
    """``metrics`` in the text format."""
    lines: list[str] = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines.extend(f"{metric.name}{_labels(sample)} {sample.value}" for sample in metric.samples)
    return "".join(line + "\n" for line in lines).encode()


def _labels(sample: Sample) -> str:
    if not sample.labels:
        return ""
    pairs = (f'{name}="{text.translate(_ESCAPES)}"' for name, text in sample.labels.items())
    return "{" + ",".join(pairs) + "}"
