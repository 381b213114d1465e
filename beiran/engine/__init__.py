"""Engines: where images live. Each module speaks to one kind; all keep ``contract.Engine``."""
