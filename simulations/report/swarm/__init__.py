"""The report of a simulated crowd: what is recorded, its figures, plots and page."""
