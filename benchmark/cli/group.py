"""The commands of the core, and beside them those of plugins, each made when it is asked for."""

from __future__ import annotations

from importlib import import_module
from inspect import getdoc
from types import ModuleType
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from benchmark import processes
from benchmark.cli.shared import err
from benchmark.errors import UserError
from benchmark.texts import flowing, told

#: The core's commands and groups of such, as they are listed, and the modules that have them.
OWN = {
    "run": "play",
    "tune": "play",
    "experiment": "experiment",
    "plan": "forecast",
    "scan": "scan",
    "repair": "repair",
    "plugins": "catalogue",
    "protocols": "catalogue",
    "check": "authoring",
    "pareto": "pareto",
    "submit": "boards",
    "verify": "boards",
    "new": "authoring",
    "board": "boards",
}


class CommandError(UserError):
    """A module that does not add commands as it should, in one sentence."""


class Commands(TyperGroup):
    """The core's commands, then those of plugins.

    Plugins are asked only when all commands are listed, or for a word that the core does not
    know. One that cannot add its commands is left out, with one sentence.
    """

    _asked = False

    def list_commands(self, ctx: Any) -> list[str]:
        self._ask_all()
        return [*OWN, *(name for name in self.commands if name not in OWN)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in OWN:
            self._own(cmd_name)
        elif cmd_name not in self.commands:
            self._ask_all()
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; where it is asked to end, it ends with a word and without a traceback."""
        with processes.asked_to_end():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                err.print("interrupted; the same command starts again")
                raise typer.Exit(130) from None

    def _own(self, name: str) -> None:
        if name in self.commands:
            return
        found = getattr(import_module(f"benchmark.cli.{OWN[name]}"), name)
        cli = typer.Typer(rich_markup_mode="rich")
        if isinstance(found, typer.Typer):
            cli.add_typer(found, name=name)
        else:
            cli.command()(found)
        for command in (found if isinstance(found, typer.Typer) else cli).registered_commands:
            command.help = flowing(getdoc(command.callback) or "")
        self.commands.update(typer.main.get_group(cli).commands)

    def _ask_all(self) -> None:
        if self._asked:
            return
        self._asked = True
        for name in OWN:
            self._own(name)
        from benchmark.hooks import COMMANDS, origin, points
        from benchmark.unchanged import unchanged

        for point in points(COMMANDS):
            try:
                with unchanged():
                    added = added_by(point.load())
                if taken := sorted(added.keys() & self.commands.keys()):
                    raise CommandError(f"there is a command {taken[0]} already; rename one")
                self.commands.update(added)
            except (Exception, SystemExit) as error:
                what = " ".join(told(error).split())
                err.print(
                    f"[yellow]left out:[/yellow] commands {escape(point.name)} "
                    f"({escape(origin(point))}): {escape(what)}",
                    soft_wrap=True,
                )


def added_by(module: ModuleType) -> dict[str, Any]:
    """The commands that a module adds, by name.

    Raises:
        CommandError: it implements another hook than `register_commands`, or none.
    """
    import pluggy

    from benchmark.hooks import COMMANDS, GROUP, HookSpecs

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(HookSpecs)
    manager.register(module)
    hooks = [caller.name for caller in manager.get_hookcallers(module) or []]
    if hooks != ["register_commands"]:
        raise CommandError(
            f"it implements {' and '.join(hooks) or 'no hook'}; a module of {COMMANDS} "
            "implements register_commands alone"
        )
    cli = typer.Typer()
    manager.hook.register_commands(cli=cli)
    return dict(typer.main.get_group(cli).commands)
