"""The shared parts of both sans-IO cores: context, timers, rates, wire format."""
