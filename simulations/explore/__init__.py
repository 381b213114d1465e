"""Random scenarios: draw them from seeds, find one that violates an invariant, shrink it."""
