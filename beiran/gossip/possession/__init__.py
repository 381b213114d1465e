"""Who holds which image: owner logs, their merge, and anti-entropy."""
