"""`python -m benchmark.cli` is the command `poisongames`."""

from benchmark.cli import app

app()
