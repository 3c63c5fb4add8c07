"""First-party defenses, one module per method."""
