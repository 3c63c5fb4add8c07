"""First-party attacks, one module per method."""
