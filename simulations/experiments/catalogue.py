"""All experiments by name: the papers', and the figures of this project.

``EXPERIMENTS[name].run(options, progress)`` returns rows; ``python -m simulations experiment NAME``
prints them.
"""

from typing import Final

from simulations.experiments import dissemination, idle, joining, lifeguard, silence
from simulations.experiments.table import Experiment

EXPERIMENTS: Final[dict[str, Experiment]] = {
    experiment.name: experiment
    for module in (lifeguard, idle, silence, dissemination, joining)
    for experiment in module.EXPERIMENTS
}
