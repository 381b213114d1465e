"""What both sans-IO cores share: timers and rates."""
