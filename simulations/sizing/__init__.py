"""Simulated fleets, and the formulas for ``beiran plan`` that are fitted to them."""
