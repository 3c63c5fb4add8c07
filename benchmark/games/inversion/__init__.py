"""The inversion game."""
