"""The agent's own cores on virtual time. Begin with ``simulations.gossip.world``."""
