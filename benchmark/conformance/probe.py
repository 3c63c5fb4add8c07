"""Imports plugin modules in fresh processes and reports what that does.

Run as a script. Reads one module name or file per line and answers each with a line of JSON. The
core is imported once; every module is imported in a fork, so that none sees another.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load(module: str) -> None:
    """Import a module by name, or a file by its path, as the registry does."""
    if not module.endswith(".py"):
        importlib.import_module(module)
        return
    name = f"poisongames_file_{Path(module).stem}"
    spec = importlib.util.spec_from_file_location(name, module)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def forked(work: Callable[[], Any]) -> Any:
    """What `work` returns in a fork; all that it prints is added as "printed"."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as printed:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
                try:
                    found = work()
                except Exception as error:
                    found = {"error": f"{type(error).__name__}: {error}"}
                sys.stdout.flush()
                sys.stderr.flush()
                answer.write(json.dumps(found).encode())
                answer.flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        answer.seek(0)
        printed.seek(0)
        text = answer.read()
        found = json.loads(text) if text else {"error": "the process ended"}
        return found | {"printed": printed.read().decode(errors="replace")}


def rooms(module: str) -> dict[str, Any]:
    """The parts of the core that a module imports."""
    before = set(sys.modules)
    load(module)
    return {"rooms": sorted(m for m in set(sys.modules) - before if m.startswith("benchmark."))}


def effects(module: str, known: list[str]) -> dict[str, Any]:
    """What importing a module does, beyond what the parts of the core in `known` do."""
    import torch

    for room in known:
        importlib.import_module(room)

    def state() -> dict[str, Any]:
        return {
            "torch's global random state": torch.get_rng_state().tolist(),
            "torch's default dtype": str(torch.get_default_dtype()),
            "torch's number of threads": torch.get_num_threads(),
            "the GPU": torch.cuda.is_initialized(),
        }

    packages, before = {name.split(".")[0] for name in sys.modules}, state()
    load(module)
    after = state()
    new = {name.split(".")[0] for name in sys.modules} - packages - set(sys.stdlib_module_names)
    return {
        "packages": sorted(name for name in new if not name.startswith("_")),
        "touched": [name for name in before if before[name] != after[name]],
    }


def main() -> None:
    for room in ("api", "inversion", "models"):
        importlib.import_module(f"benchmark.{room}")
    for line in sys.stdin:
        module = line.strip()
        known = forked(lambda: rooms(module)).get("rooms", [])  # noqa: B023
        known = [room for room in known if room != module]
        print(json.dumps(forked(lambda: effects(module, known))), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
