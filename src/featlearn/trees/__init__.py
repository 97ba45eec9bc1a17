"""Small decision trees on learned features."""
