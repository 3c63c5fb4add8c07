"""The detectability game."""
