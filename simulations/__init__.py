"""Whole clusters of the agent's own core on virtual time. Begin with ``simulations.world``."""
