"""Bytes on their way: downloads, uploads, and the driver of the swarm core."""
