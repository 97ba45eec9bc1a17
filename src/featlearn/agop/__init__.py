"""The average gradient outer product of any model."""
