"""Experiments that show what the protocol promises: the papers', and our own figures.

``EXPERIMENTS[name].run(options, progress)`` gives rows; ``python -m simulations experiment NAME``
prints them.
"""

from typing import Final

from simulations.experiments import dissemination, idle, joining, lifeguard, silence
from simulations.experiments.table import Experiment, Options, comma_separated, table

__all__ = ["EXPERIMENTS", "Experiment", "Options", "comma_separated", "table"]

EXPERIMENTS: Final[dict[str, Experiment]] = {
    experiment.name: experiment
    for module in (lifeguard, idle, silence, dissemination, joining)
    for experiment in module.EXPERIMENTS
}
