"""Requests to other agents: documents, blobs, and watch connections."""
