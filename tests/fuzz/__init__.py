"""Any bytes from the network, at length: ``make fuzz`` runs these with atheris (libFuzzer)."""
