"""How the harness itself runs: processes, progress bars, the garbage collector, profiles."""
