"""What a protocol would take: plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from benchmark.cli.execution import say_what_is_played, searches_of
from benchmark.cli.play import Attacks, Defenses, ProtocolName, Recipe, Seeds
from benchmark.cli.shared import BOARDS, PluginFiles, duration, load_registry, one_sentence, say


def plan(
    protocol: ProtocolName,
    machines: Annotated[int, typer.Option(min=1, help="Machines of the cluster.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each; 0 plays on CPUs.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Tasks side by side on each GPU, or on each machine.")
    ] = 1,
    costs: Annotated[
        Optional[Path],
        typer.Option(
            help="Folder with records that say what tasks take; the protocol's run or board by "
            "default, else the board of digits-v3."
        ),
    ] = None,
    victim_time: Annotated[
        Optional[float],
        duration("What training a clean model takes there; costs are scaled to it.", some=True),
    ] = None,
    attack: Attacks = None,
    defense: Defenses = None,
    seeds: Seeds = None,
    recipe: Recipe = None,
    plugin: PluginFiles = None,
) -> None:
    """Say how many victims and cells a protocol has, and what they take on other machines.

    Simulates the schedule of a run with the times that recorded cells took. Costs of another
    protocol are a first guess: play a few cells for a better one.
    """
    with one_sentence():
        from tabulate import tabulate

        from benchmark import protocol as protocols
        from benchmark.games.all import records
        from benchmark.games.robustness import searches as tuned
        from benchmark.runs.forecast import Costs, forecast
        from benchmark.runs.plan import plan as list_cells

        chosen, registry = protocols.load(protocol), load_registry(plugin)
        cells = list_cells(
            chosen,
            registry,
            attacks=attack or (),
            defenses=defense or (),
            seeds=seeds,
            recipe=recipe,
            tuned=tuned.chosen(searches_of(protocol, chosen, registry, recipe)),
        )
        if attack or defense:
            say_what_is_played(cells, chosen.name)
        folder = costs or _recorded(chosen.name)
        found = Costs.of(records(folder))
        if victim_time is not None:
            found = found.scaled(victim_time)
        slots = machines * max(1, gpus) * workers
        says = forecast(cells, found, slots)
        source = f"from records of {folder}, {found.device}" if victim_time is None else "as given"
        rows = [
            ("victims to train", f"{says.victims:,}"),
            ("cells to play", f"{says.cells:,}"),
            (f"a clean model, {source}", _span(found.clean)),
            ("work", _span(says.work)),
            (f"elapsed, {slots} tasks side by side", _span(says.elapsed)),
            ("critical path", _span(says.critical_path)),
            ("busy", f"{says.work / (slots * says.elapsed):.0%}"),
        ]
        say(tabulate(rows, tablefmt="plain"))
        if guessed := found.unknown(cells):
            say(f"guessed, since not played there: {', '.join(guessed)}")
        if victim_time is None and found.device.startswith("cpu") != (gpus == 0):
            say(
                f"{'CPUs' if gpus == 0 else 'GPUs'} take other times than {found.device}: give the "
                "time that a clean model takes there by --victim-time"
            )
        elif costs is None and victim_time is None and folder.name != chosen.name:
            say(
                f"{chosen.name} has other images and maybe another network than {folder.name}: "
                "give the time that a clean model takes by --victim-time, or play one cell"
            )


def _recorded(name: str) -> Path:
    """The folder of records that fits best."""
    from benchmark.runs.forecast import ForecastError

    for folder in (Path("runs") / name, BOARDS / name, BOARDS / "digits-v3"):
        if any((folder / "records").glob("*.json")):
            return folder
    raise ForecastError("there are no records here to take costs from; name a folder with --costs")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
