"""What importing a plugin's module does; run as a script, it is the process that finds out."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from functools import cache
from typing import Any

from benchmark.unchanged import everything

#: Parts of the core that plugins build on or that are listed themselves: what these load is no
#: further library.
ROOMS = (
    *("benchmark.api", "benchmark.data.named", "benchmark.inversion", "benchmark.metrics"),
    "benchmark.models",
)

#: Stands before and behind what the modules print.
MARK = "-- poisongames probe --"


@cache
def effects(*modules: str) -> dict[str, Any]:
    """What importing modules, by name or as files, does in a fresh process that has the core.

    Returns:
        The "packages" that were loaded, the settings that were "touched", and what was "printed";
        or the "error" that kept a module from being imported.
    """
    done = subprocess.run(
        # The folder of the script must not hide modules, hence -P.
        [sys.executable, "-P", __file__, *modules],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    printed, ended, answer = done.stdout.partition(MARK)[2].rpartition(MARK)
    return json.loads(answer) | {"printed": printed} if ended else {"error": "the process ended"}


def _packages() -> set[str]:
    return {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)


def _answer(modules: list[str]) -> dict[str, Any]:
    packages, before = _packages(), [(one, one.get()) for one in everything()]
    try:
        for module in modules:
            if module.endswith(".py"):
                runpy.run_path(module, run_name="poisongames_file")
            else:
                importlib.import_module(module)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "packages": sorted(p for p in _packages() - packages if not p.startswith("_")),
        "touched": [one.name for one, value in before if one.get() != value],
    }


if __name__ == "__main__":
    for room in ROOMS:
        importlib.import_module(room)
    print(MARK, end="", flush=True)
    found = json.dumps(_answer(sys.argv[1:]))
    sys.stderr.flush()
    print(MARK + found, flush=True)
    os._exit(0)  # nothing that runs at the end shall print behind it
