"""The agent: composes the cores, the store, the network and the engine of one host."""
