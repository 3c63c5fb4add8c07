"""`python -m benchmark` is the command `poisongames`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Until a command has begun Ctrl-C ends the program as it stands, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from benchmark.cli import app

    app()


if __name__ == "__main__":
    main()
