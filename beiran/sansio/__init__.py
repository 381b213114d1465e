"""What both sans-IO cores share: the context of their parts, timers, rates."""
