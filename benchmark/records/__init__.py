"""A result as a file: what records of all games say, and how they are kept and read."""
