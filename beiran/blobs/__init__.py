"""Blobs as files: the agent's cache, and what is on its way into it."""
