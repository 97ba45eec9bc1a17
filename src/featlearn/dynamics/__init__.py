"""Solvable models of feature learning: a closed form, an independent simulation, and the regimes they explain."""
