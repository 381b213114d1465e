"""The swarm core, sans-IO: who fetches which piece of a blob from whom.

``SwarmNode`` takes inputs with the time and returns effects; it opens no socket, reads no clock
and draws no randomness of its own, so that the agent and the simulations run the same code.
"""
