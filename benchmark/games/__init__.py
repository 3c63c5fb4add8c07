"""The games of the papers, line by line."""
