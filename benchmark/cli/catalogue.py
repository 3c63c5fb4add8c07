"""What there is: plugins and protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.shared import PluginFiles, err, one_sentence, out

if TYPE_CHECKING:
    from benchmark.registry import Registry


def plugins(
    name: Annotated[Optional[str], typer.Argument(help="Show one plugin's parameters.")] = None,
    plugin: PluginFiles = None,
) -> None:
    """List attacks, defenses, data sets and architectures, or show one of them."""
    from benchmark.registry import Registry

    registry = Registry(plugin or ())
    if name is None:
        _list_plugins(registry)
    else:
        _show_plugin(registry, name)


def _list_plugins(registry: Registry) -> None:
    from benchmark.specs import nature

    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "threat or stage", "version", "from", "summary"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for entry in registry.entries:
        table.add_row(
            entry.plugin.name,
            entry.kind.__name__.lower(),
            nature(entry.plugin),
            str(entry.plugin.version),
            escape(entry.origin),
            escape(entry.summary),
        )
    out.print(table)
    for failure in registry.failures:
        out.print(
            f"[red]failed[/red] {escape(failure.name)} ({escape(failure.origin)}): "
            f"{escape(failure.error)}",
            soft_wrap=True,
        )


def _show_plugin(registry: Registry, name: str) -> None:
    import inspect

    from benchmark.specs import describe_type, nature, parameters, shown_default

    found = [entry for entry in registry.entries if entry.plugin.name == name]
    if not found:
        import difflib

        names = [entry.plugin.name for entry in registry.entries]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        err.print(f"[red]error:[/red] no plugin is named {escape(name)}{hint}")
        raise typer.Exit(2)
    for entry in found:
        plugin = entry.plugin
        kind = entry.kind.__name__.lower()
        out.print(
            f"[b]{plugin.name}[/b] {kind} ({nature(plugin) or kind}), version {plugin.version}"
        )
        out.print(f"from {escape(entry.origin)}; paper: {escape(plugin.paper) or 'none given'}\n")
        out.print(escape(inspect.getdoc(plugin) or ""))
        table = Table("parameter", "default", "allowed", box=None, pad_edge=False)
        for field, (hint, default) in parameters(plugin).items():
            table.add_row(field, escape(shown_default(default)), escape(describe_type(hint)))
        out.print()
        out.print(table if table.rows else "no parameters")


def protocols(
    name: Annotated[Optional[str], typer.Argument(help="Show one protocol's grid.")] = None,
) -> None:
    """List the released protocols, or show one of them."""
    with one_sentence():
        from benchmark import protocol as module

        if name is None:
            table = Table("name", "sha256", "summary", box=None, pad_edge=False)
            for known, sha in module.released().items():
                table.add_row(known, sha[:12], escape(module.load(known).summary))
            out.print(table)
        else:
            shown = module.load(name)
            out.print(f"{shown.name} {shown.sha256}", soft_wrap=True)
            out.print_json(shown.model_dump_json())
