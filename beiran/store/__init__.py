"""Where this node's picture is kept: one SQLite file, and what can be asked of it."""
