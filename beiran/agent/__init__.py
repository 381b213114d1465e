"""The agent: what holds core, store, network and engine together on one host."""
