"""What a plugin module may implement, and where such modules are found; free of torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, get_args

import pluggy

if TYPE_CHECKING:
    import typer

#: What an attacker changes: images and labels, images alone, or the training code.
Threat = Literal["poison-label", "clean-label", "code"]
#: Where in a game a defense acts, in the order in which a pipeline is played.
Stage = Literal["sanitize", "repair", "deploy", "detect", "invert"]
STAGES: tuple[Stage, ...] = get_args(Stage)

#: The group of entry points in which plugins register; one line per module.
GROUP = "poisongames"
#: The group of those that add commands. The command line imports them to list itself.
COMMANDS = "poisongames.commands"

hookimpl = pluggy.HookimplMarker(GROUP)
_hookspec = pluggy.HookspecMarker(GROUP)

Register = Callable[[type[Any]], None]


class HookSpecs:
    """The hooks: those of `GROUP` are handed a function to call per class."""

    @_hookspec
    def register_attacks(self, register: Register) -> None:
        """Register attacks."""

    @_hookspec
    def register_defenses(self, register: Register) -> None:
        """Register defenses."""

    @_hookspec
    def register_datasets(self, register: Register) -> None:
        """Register data sets."""

    @_hookspec
    def register_architectures(self, register: Register) -> None:
        """Register architectures of classifiers."""

    @_hookspec
    def register_commands(self, cli: typer.Typer) -> None:
        """Add commands, or groups of them, to `cli`; they stand beside those of `poisongames`.

        The only hook of a module of the group `COMMANDS`. Such a module, and the package it
        lies in, import torch and the like inside the functions that need them.
        """


def points(group: str) -> list[EntryPoint]:
    """Entry points of a group; a distribution found twice on the path counts once."""
    unique = {
        (point.dist.name if point.dist else "", point.name, point.value): point
        for point in entry_points(group=group)
    }
    return [unique[key] for key in sorted(unique)]


def origin(point: EntryPoint) -> str:
    """Name and version of the distribution that an entry point comes from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
