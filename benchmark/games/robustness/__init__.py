"""The robustness game."""
