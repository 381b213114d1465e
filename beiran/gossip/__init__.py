"""The gossip core, sans-IO: who is a member, and who holds what.

``GossipNode`` takes inputs with the time and returns effects; it opens no socket, reads no clock
and draws no randomness of its own, so that the agent and the simulations run the same code.
"""
