"""The papers' figures and tables, each a small file: cells to play, a table, a plot."""
