"""Requests to other agents: their `/info`, their blobs, and connections that are watched."""
