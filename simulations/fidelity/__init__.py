"""Fidelity: a run of the lab and its twin on virtual time, side by side."""
