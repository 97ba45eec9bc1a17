"""How much, and where, a network learns features: one call on any torch model, one report."""
