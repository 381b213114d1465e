"""Which peers and which pieces can be trusted."""
