"""README.md of a board, which GitHub shows: what matters most, in fewer than 200 lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from benchmark.games.columns import MISSING, Column, share_text
from benchmark.games.frames import Chapter, Frame
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.chapters import CHAPTERS, UNDEFENDED_ASR, sentences
from benchmark.leaderboard.grids import Filled, fill
from benchmark.records.credits import Kept
from benchmark.texts import counted

#: Lines of the whole file, and columns of a table.
LINES, COLUMNS = 200, 8
#: Rows of a table, and tables of a grid: the most that leave the file short enough.
LIMITS = ((30, 12), (20, 8), (12, 6), (8, 4), (5, 2), (3, 1), (1, 1))


def page(board: Board) -> str:
    """The whole text; parts without records are left out, and what is too much is cut."""
    for limits in LIMITS:
        text = "\n\n".join(_parts(board, *limits)) + "\n"
        if text.count("\n") < LINES:
            break
    return text


def _parts(board: Board, rows: int, tables: int) -> Iterator[str]:
    yield f"# {board.protocol.name}"
    yield "\n".join(f"- {escaped(sentence)}" for sentence in sentences(board.frames))
    numbers = f"{counted(board.cells, 'cell')}, {counted(board.seeds, 'seed')}"
    yield (
        f"{numbers}, protocol `{board.protocol.sha256[:12]}`. All numbers: "
        "[index.html](index.html) and the CSV files. Rates are in percent, brackets 95 % intervals."
    )
    for chapter in CHAPTERS:
        own = [frame for frame in chapter.frames if len(board.frames.get(frame.name, ()))]
        parts = [part for frame in own for part in _frame(frame, board.frames, rows, tables)]
        if parts:
            yield f"## {chapter.title}"
            yield from parts
            yield details("How to read", _explained(chapter, own))
    if board.submissions:
        lines = [_submission(one) for one in board.submissions[:rows]]
        yield "## Submissions"
        yield _cut(markdown(lines), len(board.submissions) - rows)


def _submission(one: Kept) -> dict[str, str]:
    links = [f"[paper]({one.paper})"] if one.paper else []
    links += [f"[plugin]({one.source}) at `{str(one.commit)[:12]}`"] if one.source else []
    authors = escaped(", ".join(one.authors))
    return {
        "submission": escaped(one.title),
        "authors": authors,
        "records": str(len(one.records)),
        "links": ", ".join(links) or MISSING,
    }


def _explained(chapter: Chapter, frames: Sequence[Frame]) -> str:
    said = [chapter.how, *(frame.text for frame in frames if frame.readme)]
    return "\n\n".join(escaped(part.replace("\n\n", " ")) for part in said if part)


def _frame(
    frame: Frame, frames: Mapping[str, pd.DataFrame], rows: int, tables: int
) -> Iterator[str]:
    own = frames[frame.name]
    parts = list(_grid(frame, fill(frame, frames), rows, tables)) if frame.grid else []
    if frame.readme and not frame.grid:
        for title, part in frame.parts(frame.order(own)):
            if len(part) and _brief(frame, part):
                yield f"### {frame.title}{f': {title}' if title else ''}"
                yield _table(frame, part, rows)
    elif frame.readme:
        yield f"### {frame.title}"
        yield from parts
    if frame.readme and frame.summary and (said := frame.summary(own)):
        yield escaped(said)
    if frame.drawn:
        yield f"![{frame.plot.alt if frame.plot else frame.alt}]({frame.name}.svg)"


def _table(frame: Frame, table: pd.DataFrame, most: int) -> str:
    columns = _brief(frame, table)
    lines = [
        {column.title: escaped(column.text(row)) for column in columns}
        for row in table.head(most).to_dict("records")
    ]
    return _cut(markdown(lines), len(table) - most)


def _brief(frame: Frame, table: pd.DataFrame) -> list[Column]:
    return [column for column in frame.shown(table) if column.brief][:COLUMNS]


def _grid(frame: Frame, filled: Filled, rows: int, tables: int) -> Iterator[str]:
    """Tables of the headline and, folded away, of other readings; one per trusted share."""
    assert frame.grid is not None
    for number, (title, key) in enumerate(frame.grid.readings):
        made = list(_tables(frame, frame.column(key), filled, rows))
        shown = [f"{name}:\n\n{text}" for name, text in made[:tables]]
        if len(made) > tables:
            shown.append(f"{counted(len(made) - tables, 'more table')}: see index.html.")
        if number == 0:
            yield from shown
        elif rows >= LIMITS[1][0]:
            yield details(title.capitalize(), "\n\n".join(shown))


def _tables(frame: Frame, column: Column, filled: Filled, most: int) -> Iterator[tuple[str, str]]:
    """A table for every trusted share, of as many defenders as are narrow enough."""
    assert frame.grid is not None
    wide = COLUMNS - 2
    for share in sorted({share for _, share in filled.defenders}):
        across = [key for key in filled.defenders if key[1] == share]
        named = f"r = {share_text(share)}" if share else "without trusted images"
        for start in range(0, len(across), wide):
            lines = []
            for attack, label in list(filled.attacks.items())[:most]:
                own, before = filled.before.get(attack, (UNDEFENDED_ASR, {}))
                line = {"attack": escaped(label)}
                line[f"no defense ({UNDEFENDED_ASR.title})"] = own.short(before)
                for who in across[start : start + wide]:
                    text = MISSING
                    if (attack, who) in filled.failed:
                        text = "failed"
                    elif (attack, who) in filled.cells:
                        row = filled.cells[attack, who][1]
                        look, note = frame.grid.look(row, column.key)
                        style = "**{}**" if look == "repaired" else "{}"
                        text = style.format(column.short(row)) + note
                    line[escaped(filled.defenders[who][0])] = text
                lines.append(line)
            text = _cut(markdown(lines), len(filled.attacks) - most)
            yield f"{column.title}, {named}", text


def _cut(text: str, left: int) -> str:
    return f"{text}\n\nAnd {left} more in index.html." if left > 0 else text


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table without the blanks that align it."""
    heads = list(rows[0])
    lines = [heads, [":--"] * len(heads), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(title: str, text: str) -> str:
    """Folded away."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def escaped(text: str) -> str:
    """Without what would break a Markdown table or turn into markup."""
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
