"""Experiments: what the protocol promises, measured; see ``catalogue``. Sweeps run grids."""
