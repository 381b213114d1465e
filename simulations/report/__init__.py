"""Reports of runs: a record on disk, and a page, plots and tables made from it."""
