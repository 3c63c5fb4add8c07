"""Released protocols."""
