"""Recursive Feature Machines: estimators that learn features without backpropagation."""
