"""The agent's settings: flags, environment variables, and `beiran.toml`."""
