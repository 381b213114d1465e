"""Engines, where images live: Docker, an OCI layout folder, or none. See ``interface.Engine``."""
