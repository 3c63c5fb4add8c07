"""What every plugin has to hold, whatever its kind."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from benchmark.api import Plugin
from benchmark.conformance.probe import effects
from benchmark.conformance.subject import ConformanceError, DoesNotApply, Subject
from benchmark.errors import UserError
from benchmark.games.checks import RuleViolation
from benchmark.registry import GROUP
from benchmark.specs import (
    RegistryError,
    joined,
    parameters,
    parse,
    read,
    written,
)

#: So many characters of a summary fit into the table of `poisongames plugins`.
LONGEST_SUMMARY = 100

_CITED = re.compile(r"\b(19|20)\d\d\b|\bet al\b|\barXiv\b|^none\b", re.IGNORECASE)


def version(subject: Subject) -> None:
    """The version is a whole number from 1 on."""
    found = subject.entry.plugin.version
    if type(found) is not int or found < 1:
        raise ConformanceError(f"version is {found!r}; count versions from 1 on")


def summary(subject: Subject) -> None:
    """The first line of the docstring is one sentence that fits into a table."""
    found = subject.entry.summary
    if len(found) > LONGEST_SUMMARY:
        raise ConformanceError(
            f"the docstring's first line has {len(found)} characters; sum up in at most "
            f"{LONGEST_SUMMARY} and leave the rest to the lines below"
        )
    if not found.endswith(".") or re.search(r"[^A-Z][.!?] +[A-Z]", found.replace("et al.", "")):
        raise ConformanceError(
            f"the docstring's first line, {found!r}, is not one sentence; write one that ends "
            "with a full stop"
        )


def source(subject: Subject) -> None:
    """The attribute `paper`, or else the docstring, names where the method is from."""
    paper = subject.entry.plugin.paper
    # A title without authors and year is a source, too.
    if paper and (_CITED.search(paper) or len(paper.split()) > 2):
        return
    if not paper and _CITED.search(inspect.getdoc(subject.entry.plugin) or ""):
        return
    raise ConformanceError(
        f"paper is {paper!r}, which names no source; write authors and year or a title, or "
        '"none, …" where there is no paper'
    )


def settings(subject: Subject) -> None:
    """Every parameter can be read from text."""
    for field, (hint, default) in parameters(subject.entry.plugin).items():
        if isinstance(default, Plugin) or default is dataclasses.MISSING:
            continue
        text = written(default)
        try:
            found = read(hint, text)
        except ValueError:
            found = dataclasses.MISSING
        if found != default:
            raise ConformanceError(
                f"parameter {field} cannot be read from its default's text {text!r}; give it a "
                "default of its type"
            )


def round_trip(subject: Subject) -> None:
    """Its settings, written as text, build the same plugin again."""
    usual = subject.create()
    _build_again(subject, usual)
    name, given = parse(subject.spec)
    for field, (hint, _) in parameters(subject.entry.plugin).items():
        for value in _other_values(subject, hint, getattr(usual, field)):
            texts = given | {field: written(value)}
            spec = joined(name, texts)
            try:
                changed = subject.registry.create(subject.entry.kind, spec)
            except RegistryError:  # not every value is allowed
                continue
            _build_again(subject, changed)
            break


def _build_again(subject: Subject, plugin: Plugin) -> None:
    try:
        subject.registry.build_again(subject.entry.kind, plugin)
    except RegistryError as error:
        raise ConformanceError(str(error)) from None


def _other_values(subject: Subject, hint: Any, value: Any) -> Iterator[Any]:
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if isinstance(value, Plugin):
        for entry in subject.registry.entries:
            if issubclass(entry.plugin, hint) and entry.plugin.name != value.name:
                yield entry.plugin.name
    elif typing.get_origin(base) is typing.Literal:
        yield from (choice for choice in typing.get_args(base) if choice != value)
    elif value is None:
        yield from (1, 0.5, "x", [1], ["x"])
    elif isinstance(value, list | tuple):
        yield from ([*value, *value[:1]], [*value[:-1]])
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value * 2)
    elif isinstance(value, float):
        yield from (value / 2, value + 0.25, value * 2)


def cheap_to_list(subject: Subject) -> None:
    """Importing its module loads no further library, prints nothing and changes no setting."""
    name = subject.entry.plugin.__module__
    module = name
    if name.startswith("poisongames_file_"):  # the registry's name for a file
        module = str(Path(sys.modules[name].__file__ or "").resolve())
    found = effects(module)
    if "error" in found:
        raise ConformanceError(
            f"importing {module} in a fresh process fails ({found['error']}); make it "
            "importable on its own"
        )
    own = {name.split(".")[0]} | {point.module.split(".")[0] for point in entry_points(group=GROUP)}
    heavy = [package for package in found["packages"] if package not in own]
    if heavy:
        raise ConformanceError(
            f"importing {module} also imports {', '.join(heavy)}; import it in the function "
            "that needs it"
        )
    if found["printed"]:
        raise ConformanceError(f"importing {module} prints {found['printed']!r}; remove that")
    if found["touched"]:
        raise ConformanceError(
            f"importing {module} changes {' and '.join(found['touched'])}; leave that as it is"
        )


def plays(subject: Subject) -> None:
    """It plays a round of its game, and returns what the rules allow."""
    try:
        subject.attempt()
    except DoesNotApply:
        raise
    except (RuleViolation, UserError) as error:  # these say what to do themselves
        raise ConformanceError(str(error)) from error
    except Exception as error:
        raise ConformanceError(
            f"a round of the game fails with {subject.told(error)}; mend that, or choose settings "
            "that suit the grey images of 16x16 pixels on which it is played"
        ) from error


def quiet(subject: Subject) -> None:
    """It prints nothing while it plays."""
    if printed := subject.round().watch.printed.strip():
        first = printed.splitlines()[0]
        raise ConformanceError(
            f"it prints {first[:60]!r} while it plays; remove that, the harness shows how far a "
            "run has come"
        )


def inputs(subject: Subject) -> None:
    """It leaves the images and labels that it is lent as they are."""
    for who, before, after in subject.round().watch.lent:
        if not torch.equal(before, after):
            raise ConformanceError(
                f"{who} changed its input in place; work on a copy such as images.clone()"
            )


def deterministic(subject: Subject) -> None:
    """Equal seeds give equal results, bit for bit."""
    different = subject.round().differs_from(subject.round(again=1))
    if different:
        raise ConformanceError(
            f"{different} differs between two rounds of equal seeds; draw random numbers from the "
            "generator that is passed in, and from nothing else"
        )


def own_randomness(subject: Subject) -> None:
    """Torch's global random state is neither needed nor changed."""
    first = subject.repeatable()
    different = first.differs_from(subject.round(seed=1))
    if different:
        raise ConformanceError(
            f"{different} depends on torch's global random state; draw with generator=rng"
        )
    if first.watch.moved:
        raise ConformanceError(
            f"{first.watch.moved[0]} changes torch's global random state; do without "
            "torch.manual_seed and draw with generator=rng"
        )
