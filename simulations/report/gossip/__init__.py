"""The report of a simulated cluster: what is recorded, its figures, plots and page."""
