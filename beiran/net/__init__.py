"""Adapters to the network, one outside thing each."""
