"""The command line of the simulations: ``python -m simulations``."""
