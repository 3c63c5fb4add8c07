"""Writes the package that a new plugin starts from: small, working, and passing every check."""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal, get_args
from uuid import uuid4

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmark.errors import UserError
from benchmark.hooks import Stage, Threat
from benchmark.registry import Registry
from benchmark.specs import NAME_LIMIT

Kind = Literal[Threat, Stage]

#: The protocol in which a new plugin is tried first.
PROTOCOL = "digits-v3"

_THREATS: tuple[Kind, ...] = get_args(Threat)


class ScaffoldError(UserError, ValueError):
    """A package that cannot be written under this name or here, in one sentence."""


def write(name: str, kind: Kind, parent: Path, registry: Registry) -> Path:
    """Write the package of a plugin into a new folder, whole or not at all.

    Args:
        name: of the plugin, the distribution and the folder; words joined by hyphens.
        kind: an attack's threat model or a defense's stage.
        parent: where the folder is made.
        registry: the plugins whose names are taken.

    Raises:
        ScaffoldError: a bad or taken name, one that hides what the code uses, or a folder that
            exists or cannot be written.
    """
    package = name.replace("-", "_")
    folder = parent / name
    _refuse(name, package, folder, registry)
    files = _render(name, package, kind)
    _refuse_hiding(name, files)
    part = parent / f".{name}.{uuid4().hex}.part"
    try:
        for file, text in files.items():
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            (part / file).write_text(text, encoding="utf-8")
        part.rename(folder)
    except OSError as error:
        raise ScaffoldError(
            f"cannot write {folder} ({error.strerror}); choose another --out"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _refuse(name: str, package: str, folder: Path, registry: Registry) -> None:
    # As the registry has it, and besides a name that Python can import.
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or (
        keyword.iskeyword(package) or keyword.iskeyword(_class(name))  # none makes None
    ):
        raise ScaffoldError(
            f"{name!r} cannot be a plugin's name; use lower-case words joined by - or _ that "
            "begin with a letter, as in my-attack"
        )
    if len(name) > NAME_LIMIT:
        raise ScaffoldError(
            f"{name!r} has {len(name)} characters, a plugin's name has at most {NAME_LIMIT}; "
            "choose a shorter one"
        )
    if not folder.parent.is_dir():
        raise ScaffoldError(f"{folder.parent} is no folder; make it or choose another --out")
    if folder.exists():
        raise ScaffoldError(f"{folder} exists already; choose another name or --out")
    for entry in registry.entries:
        if entry.plugin.name == name:
            raise ScaffoldError(
                f"{name!r} is taken by a plugin of {entry.origin}; choose another name"
            )
    try:
        found = distribution(name)
    except PackageNotFoundError:
        found = None
    if found or importlib.util.find_spec(package):
        raise ScaffoldError(f"{name!r} is taken by an installed package; choose another name")


def _refuse_hiding(name: str, files: Mapping[str, str]) -> None:
    """A name whose class would be called as something else in the package's code is."""
    cls = _class(name)
    code = [ast.parse(text) for file, text in files.items() if file.endswith(".py")]
    if any(sum(cls in _names(one) for one in tree.body) > 1 for tree in code):
        raise ScaffoldError(
            f"{name!r} makes a class {cls}, which hides the {cls} that its code uses; choose "
            f"another name, such as {f'my-{name}'!r}"
        )


def _names(statement: ast.stmt) -> list[str]:
    """What a statement at the top of a module gives a name to."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    return [statement.name] if isinstance(statement, ast.ClassDef | ast.FunctionDef) else []


def _class(name: str) -> str:
    return "".join(word.capitalize() for word in re.split("[-_]", name))


def _render(name: str, package: str, kind: Kind) -> dict[str, str]:
    """The text of every file, by its path in the package."""
    templates = Environment(
        loader=PackageLoader(__name__),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # nothing here is HTML
    )
    values = {
        "name": name,
        "package": package,
        "cls": _class(name),
        "kind": kind,
        "side": "attack" if kind in _THREATS else "defense",
        "protocol": PROTOCOL,
    }
    files = {
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
        f"src/{package}/__init__.py": f"plugins/{kind}.py.jinja",
        f"tests/test_{package}.py": f"tests/{kind}.py.jinja",
    }
    return {path: templates.get_template(file).render(values) for path, file in files.items()}
