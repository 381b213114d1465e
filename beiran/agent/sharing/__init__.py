"""How this host gives and takes blobs: the mirror, pulls, and what they need of the swarm."""
