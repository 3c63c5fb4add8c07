"""What there is: plugins and protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional, get_args

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from benchmark.cli.completion import plugin_names, protocol_names
from benchmark.cli.shared import PluginFiles, one_sentence, out, refuse_broken, say, say_failures
from benchmark.errors import UserError
from benchmark.hooks import STAGES, Stage, Threat
from benchmark.texts import did_you_mean, flowing

if TYPE_CHECKING:
    from benchmark.registry import Entry, Registry


def plugins(
    name: Annotated[
        Optional[str],
        typer.Argument(help="Show one plugin's parameters.", autocompletion=plugin_names),
    ] = None,
    threat: Annotated[
        Optional[Threat], typer.Option(help="List attacks of one threat model.")
    ] = None,
    stage: Annotated[Optional[Stage], typer.Option(help="List defenses of one stage.")] = None,
    plugin: PluginFiles = None,
) -> None:
    """List attacks, defenses, data sets and architectures, or show one of them."""
    from benchmark.registry import Registry

    registry = Registry(plugin or ())
    say_failures(registry)
    if name is None:
        _list_plugins(registry, {*filter(None, (threat, stage))})
    else:
        with one_sentence():
            _show_plugin(registry, name)
    refuse_broken(registry, plugin)


def _list_plugins(registry: Registry, wanted: set[str]) -> None:
    """A group for every kind, threat model and stage; all of them where nothing is wanted."""
    from benchmark.specs import threat_or_stage

    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in registry.entries:
        of = threat_or_stage(entry.plugin)
        if not wanted or of in wanted:
            groups.setdefault((entry.kind.__name__.lower(), of), []).append(entry)
    order = [*get_args(Threat), *STAGES, ""]
    # One width for all groups.
    width = max((len(entry.plugin.name) for group in groups.values() for entry in group), default=0)
    for (kind, of), entries in sorted(groups.items(), key=lambda item: order.index(item[0][1])):
        out.print(f"[b]{kind}s{', ' if of else ''}{of}[/b]")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, min_width=width)
        table.add_column(overflow="fold")
        for entry in entries:
            # What came with this package needs no origin.
            origin = "" if entry.origin.startswith("poisongames ") else f" ({entry.origin})"
            table.add_row(entry.plugin.name, escape(entry.summary + origin))
        out.print(Padding(table, (0, 0, 1, 2), expand=False))
    out.print("`poisongames plugins NAME` shows parameters, version and source.", highlight=False)


def _show_plugin(registry: Registry, name: str) -> None:
    import inspect

    from benchmark.specs import describe_type, parameters, shown_default, threat_or_stage

    found = [entry for entry in registry.entries if entry.plugin.name == name]
    if not found:
        names = [entry.plugin.name for entry in registry.entries]
        raise UserError(
            f"no plugin is named {name!r}{did_you_mean(name, names)}; `poisongames plugins` lists "
            "all"
        )
    for entry in found:
        plugin = entry.plugin
        kind = entry.kind.__name__.lower()
        of = threat_or_stage(plugin) or kind
        out.print(f"[b]{plugin.name}[/b] {kind} ({of}), version {plugin.version}")
        out.print(f"from {escape(entry.origin)}; paper: {escape(plugin.paper) or 'none given'}\n")
        out.print(escape(flowing(inspect.getdoc(plugin) or "")))
        table = Table("parameter", "default", "allowed", box=None, pad_edge=False)
        for field, (hint, default) in parameters(plugin).items():
            table.add_row(field, escape(shown_default(default)), escape(describe_type(hint)))
        out.print()
        out.print(table if table.rows else "no parameters")


def protocols(
    name: Annotated[
        Optional[str],
        typer.Argument(help="Show one protocol's grid.", autocompletion=protocol_names),
    ] = None,
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
            say(f"{shown.name} {shown.sha256}")
            out.print_json(shown.model_dump_json())
