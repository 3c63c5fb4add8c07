"""`python -m benchmark` is the command `poisongames`."""

from benchmark.cli import app

app()
