"""Matrices: spectra, similarity, roots."""
