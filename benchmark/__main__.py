"""`python -m benchmark` is the command `poisongames`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line."""
    # Until a command has begun Ctrl-C ends the program as it stands, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from benchmark.cli import app

    try:
        app()
    except SystemExit as ended:
        known = sys.modules.get("benchmark.process_settings")
        if known is not None and any(thread.is_alive() for thread in known.strays):
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            os._exit(int(ended.code or 0))  # or Python would wait for a plugin's thread
        raise


if __name__ == "__main__":
    main()
