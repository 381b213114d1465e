"""The store: this node's view of the cluster in one SQLite file, its writes and its reads."""
