"""Boards: build them, verify what they rest on, submit to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer
from rich.markup import escape

from benchmark.cli.shared import (
    BOARDS,
    DataDir,
    Device,
    PluginFiles,
    all_boards,
    check_folder,
    counting,
    err,
    load_registry,
    one_sentence,
    out,
    say,
)
from benchmark.errors import UserError
from benchmark.texts import counted

if TYPE_CHECKING:
    from benchmark.cli.replays import Again
    from benchmark.records.strict import Finding


board = typer.Typer(help="Make tables from records.", no_args_is_help=True)


@board.command("build")
def build_board(
    folder: Annotated[
        Optional[Path],
        typer.Argument(help="A run's folder, with records/ inside; all of leaderboards/ if none."),
    ] = None,
    beside: Annotated[
        Optional[Path],
        typer.Argument(help="A board whose records are shown with them; nothing is written there."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when a file is not up to date.")
    ] = False,
) -> None:
    """Write README.md, CSV tables, plots and index.html from records, and say what came out.

    The same records give the same bytes. With a second folder, a run's rows stand among those of a
    board; without any, all boards and what lists them are made anew.
    """
    with one_sentence():
        from benchmark.leaderboard import index
        from benchmark.leaderboard.build import build, stale

        folders = [folder] if folder else all_boards("name the folder of a run")
        places = [one if one.name else one.resolve() for one in folders]  # a parent of . is .
        lists = [] if beside else sorted({one.parent for one in places})
        lists = [one for one in lists if folder is None or index.has_index(one)]
        if check:
            found = [one / name for one in folders for name in stale(one, beside)]
            found += [one / name for one in lists for name in index.stale(one)]
            _check_built(found, [*folders, *lists])
        texts = [build(one, beside) for one in folders]
        for one in lists:
            index.write(one)
    if folder is not None:
        _show(texts[0].partition("\n## ")[0])
    for one in folders:
        say(f"written to {one}: README.md, index.html, *.csv, *.svg")
    for one in lists:
        say(f"written to {one}: README.md, index.html")
    if beside:
        say(
            f"they show the records of {beside}, too; `poisongames board build {folder}` makes "
            "those of the run alone"
        )


def _check_built(found: Sequence[Path], folders: Sequence[Path]) -> NoReturn:
    for path in found:
        say(f"{path} is not what the records make; run the same command without --check", err)
    for folder in folders:
        if folder not in {path.parent for path in found}:
            say(f"{folder} is up to date")
    raise typer.Exit(1 if found else 0)


def _show(text: str) -> None:
    if out.is_terminal:
        from rich.markdown import Markdown

        out.print(Markdown(text))
    else:
        say(text)


def verify(
    folder: Annotated[Path, typer.Argument(help="A board's or a run's folder.")],
    replay: Annotated[
        int, typer.Option(min=0, help="Play this many random cells again and compare.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Which cells --replay draws.")] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Recompute every number from its evidence, and say what does not hold, a line each.

    Schema, protocol, keys, budgets, counts, rates, intervals and the tables of the board are
    checked without a GPU. Plugins that are installed are compared with what the records say of
    them. A replay trains the models of a few cells anew; it needs the plugins and the data.
    """
    with one_sentence(), counting("verifying") as progress:
        from benchmark.verification.verify import verify as check

        found = check(folder, load_registry(plugin), progress)
    _print(found.findings)
    if found.findings:
        say(f"{folder}: {counted(len(found.findings), 'finding')}")
        raise typer.Exit(1)
    s = "s" if len(found.records) == 1 else ""
    say(f"{folder}: {counted(len(found.records), 'record')} hold{s}")
    if replay:
        from benchmark.cli.replays import play_again, show
        from benchmark.games.all import records
        from benchmark.runs.replay import draw

        with one_sentence():
            there = list(records(folder))
            again = play_again(draw(there, replay, seed), there, device, data_dir, plugin)
        if show(again):
            raise typer.Exit(1)


def submit(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run.")],
    boards: Annotated[
        Path, typer.Option("--boards", help="The folder of all boards, in a checkout.")
    ] = BOARDS,
    whole_rows: Annotated[
        bool,
        typer.Option("--whole-rows", help="Leave out rows without all seeds, of a run cut short."),
    ] = False,
    replay: Annotated[
        int,
        typer.Option(min=0, help="Play so many random cells again, beside those that must be."),
    ] = 1,
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="Play nothing again; the board says so.")
    ] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Check a run's records and copy them with their evidence to leaderboards/PROTOCOL/.

    All of them are taken, or none. Cells that the board has already, such as the clean models
    that every run trains, stay as they are on the board. Of every new row the repetition that
    flatters most and another one are played again, and every cell that failed; numbers that
    differ refuse all. A file submission.toml in the folder says who sent the records.
    """
    from benchmark.verification.submit import Rejected, review

    with one_sentence():
        if boards == BOARDS and not boards.is_dir():
            raise UserError(
                f"there is no {boards}/ here; submit in a checkout of the repository, or name the "
                "folder of your own boards by --boards"
            )
        check_folder(boards, "--boards")
        try:
            with counting("verifying") as progress:
                registry = load_registry(plugin)
                taken = review(run_dir, boards, registry, progress, whole_rows=whole_rows)
        except Rejected as rejected:
            _print(rejected.findings)
            _refuse(run_dir)
        if taken.sender is None:
            err.print(
                f"[yellow]note:[/yellow] {escape(str(run_dir))} has no submission.toml, so the "
                "board will not say who sent it; CONTRIBUTING has an example",
                soft_wrap=True,
            )
        again: list[Again] = []
        if not no_replay and (drawn := taken.to_replay(replay)):
            from benchmark.cli.replays import play_again, show

            again = play_again(drawn, taken.all_records(), device, data_dir, plugin)
            if show(again):
                _refuse(run_dir)
        told = [one for one in again if one.tells]
        done = taken.write({one.record.key: one.noted(taken.digest(one.record)) for one in told})
    known = f", {done.known} were there already" if done.known else ""
    left_out = f", {done.left_out} of unfinished rows were left out" if done.left_out else ""
    replayed = f", {len(again) or 'none'} {'was' if len(again) < 2 else 'were'} played again"
    if len(told) < len(again):
        replayed += f", of which {len(again) - len(told)} cannot be told"
    new = f"{counted(done.new, 'record')} {'is' if done.new == 1 else 'are'} new"
    say(f"{new} in {done.folder}{known}{left_out}{replayed}")
    if taken.sender and done.new:
        names = ", ".join(taken.sender.authors)
        say(f"they came with {taken.sender.title!r} by {names}")
    say(f"next: `poisongames board build {done.folder}`, then commit {done.folder.parent}")


def _refuse(run_dir: Path) -> NoReturn:
    say(f"{run_dir} was refused, nothing was written")
    raise typer.Exit(1)


def _print(findings: Sequence[Finding]) -> None:
    for finding in findings:
        say(str(finding), err)
