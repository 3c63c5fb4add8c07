"""The three games: robustness, detectability and inversion."""
