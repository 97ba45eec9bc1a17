"""How to get more feature learning, faster or in another layer: optimisers, learning-rate rules, initial scales."""
