"""Crowds of hosts that pull one image, with the agent's own swarm core, on virtual time."""
