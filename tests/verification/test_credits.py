"""Who sent what a board shows: said in the run's folder, checked, kept, shown, and no number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from forgeries import REPAIRED, interrupt, record_of, sparse, submit
from test_submit import only, refused, tree
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.leaderboard.build import build
from benchmark.records import credits
from benchmark.records.files import StoreError
from benchmark.verification.submit import Rejected, review
from benchmark.verification.verify import verify

ROOT = Path(__file__).parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
AUTHORS = '["Ada Lovelace", "Zoë O’Hara", "李明"]'
SAID = f"""\
title = "Repairing stripes"
authors = {AUTHORS}
paper = "https://arxiv.org/abs/2305.09671"
source = "https://github.com/example/stripes"
commit = "{COMMIT}"
"""


def sent(run: Path, text: str = SAID) -> Path:
    (run / "submission.toml").write_text(text)
    return run


def test_the_example_of_the_manual_is_taken(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (example,) = (part.split("```")[0] for part in text.split("```toml\n# submission.toml\n")[1:])
    said = credits.of_run(sent(tmp_path, example))
    assert said is not None
    assert None not in said.model_dump().values()


def test_two_strangers_are_named_for_what_each_brought(played: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    first = sent(only(played, tmp_path / "first", "pivotal-tuning-r0.05"))
    second = sent(
        only(played, tmp_path / "second", "strip-r0.05"),
        'title = "Strips"\nauthors = ["Charles Babbage"]\n',
    )
    folder = submit(first, boards).folder
    submit(second, boards)
    one, other = credits.read(folder)
    assert (one.title, len(one.records)) == ("Repairing stripes", 9)
    assert (other.title, len(other.records)) == ("Strips", 3)  # the rest was there already
    assert not one.records.keys() & other.records.keys()
    assert verify(folder).findings == []
    build(folder)
    assert verify(folder).findings == []
    rows = pd.read_csv(folder / "repairs.csv").set_index("defense")["submission"]
    assert {name.split(":")[0]: title for name, title in rows.items()} == {
        "pivotal-tuning": "Repairing stripes",
        "strip": "Strips",
    }
    page, text = ((folder / name).read_text() for name in ("index.html", "README.md"))
    for shown in (page, text):
        assert "Zoë O’Hara" in shown
        assert "https://github.com/example/stripes" in shown
        assert COMMIT[:12] in shown
    assert 'id="submission-strips"' in page


def test_who_sent_it_changes_no_number(played: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "nobody" / "small-v1", tmp_path / "somebody" / "small-v1"]
    submit(played, folders[0].parent)
    submit(sent(played), folders[1].parent)
    for folder in folders:
        build(folder)
    before, after = map(tree, folders)
    assert {*after} - {*before} == {"submissions/repairing-stripes.json"}
    for name in before:
        if name.endswith(".csv") and before[name] != after[name]:
            old, new = (pd.read_csv(folder / name) for folder in folders)
            pd.testing.assert_frame_equal(old, new.drop(columns="submission"))
        elif name not in ("README.md", "index.html") and not name.endswith(".svg"):
            assert before[name] == after[name], name


def test_more_under_one_title_is_added_and_others_must_find_their_own(
    played: Path, tmp_path: Path
) -> None:
    boards = tmp_path / "boards"
    folder = submit(sent(only(played, tmp_path / "a", "strip-r0.05")), boards).folder
    more = only(played, tmp_path / "b", "pivotal-tuning-r0.05")
    for changed in ("authors = ['Eve']", f"commit = '{'0' * 40}'"):
        key = changed.split()[0]
        lines = [line for line in SAID.splitlines() if not line.startswith(key)]
        (line,) = refused(sent(more, "\n".join([*lines, changed])), boards)
        assert line.startswith(f"submission.toml: {key}: is another one in")
    # A title that reads the same is the same.
    (line,) = refused(sent(more, 'title = "repairing  Stripes"'.replace("  ", " - ") + "\n"
                           + SAID.split("\n", 1)[1]), boards)  # fmt: skip
    assert line.startswith("submission.toml: title: is another one in")
    submit(sent(more), boards)
    (one,) = credits.read(folder)
    assert len(one.records) == 12
    assert verify(folder).findings == []


@pytest.mark.parametrize("after", [0, 1, 7])
def test_who_sent_an_interrupted_submission_is_known(
    after: int, played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = tmp_path / "boards"
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        with pytest.raises(KeyboardInterrupt):
            submit(sent(played), boards)
    folder = submit(played, boards).folder
    (one,) = credits.read(folder)
    assert len(one.records) == 12
    assert verify(folder).findings == []


def test_nobody_is_named_for_what_the_board_had(played: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    submit(played, boards)
    before = tree(boards)
    done = submit(sent(played), boards)
    assert (done.new, done.known) == (0, 12)
    assert tree(boards) == before


def replaced(old: str, new: str) -> str:
    assert old in SAID
    return SAID.replace(old, new)


TITLE, PAPER = "Repairing stripes", "https://arxiv.org/abs/2305.09671"
#: What is written, and the field and the reason that are named.
FORGED: dict[str, tuple[str, str, str]] = {
    "markup": (replaced(TITLE, "<script>alert(1)</script>"), "title", "has '<', which no title"),
    "markup in a name": (replaced("Ada Lovelace", "<b>Ada</b>"), "authors.0", "has '<'"),
    "Markdown of a picture": (replaced(TITLE, "![x](https://x.example)"), "title", "has '://'"),
    "a link in a title": (replaced(TITLE, "see www.x.example"), "title", "has 'www.'"),
    "an address in a name": (replaced("Ada Lovelace", "ada@x.example"), "authors.0", "has '@'"),
    "two titles in one": (replaced(TITLE, "Mine; Yours"), "title", "has ';'"),
    "nothing": (replaced(TITLE, ""), "title", "is empty"),
    "blanks": (replaced(TITLE, " Stripes"), "title", "more blanks than one"),
    "a new line": (replaced(TITLE, "Stripes\\nand more"), "title", "more blanks than one"),
    "a novel": (replaced(TITLE, "x" * 81), "title", "at most 80 characters"),
    "a terminal's command": (replaced(TITLE, "\\u001b[2J"), "title", r"has '\x1b'"),
    "letters from right to left": (replaced(TITLE, "\u202eevil"), "title", r"has '\u202e'"),
    "a filler": (replaced("Ada Lovelace", "\u3164"), "authors.0", r"has '\u3164'"),
    "a picture letter": (replaced("Ada Lovelace", "Ada \U0001f600"), "authors.0", "has"),
    "a combining mark": (replaced("Ada Lovelace", "Ada\u0301"), "authors.0", r"has '\u0301'"),
    "a script for a link": (replaced(PAPER, "javascript:alert(1)"), "paper", "match pattern"),
    "data for a link": (replaced(PAPER, "data:text/html,x"), "paper", "match pattern"),
    "a link without encryption": (replaced("https://arxiv", "http://arxiv"), "paper", "match"),
    "a link with a password": (replaced(PAPER, "https://a:b@x.example/"), "paper", "match pattern"),
    "a link to a number": (replaced(PAPER, "https://127/"), "paper", "match pattern"),
    "a link that ends its place": (replaced(PAPER, "https://x.example/)[a](b"), "paper", "match"),
    "a link with an attribute": (
        replaced(PAPER, "https://x.example/' onclick=x"), "paper", "match pattern"),
    "a link with a line": (replaced(PAPER, "https://x.example/\\n"), "paper", "match pattern"),
    "a long link": (replaced(PAPER, f"https://x.example/{'a' * 200}"), "paper", "at most 200"),
    "a branch for a commit": (replaced(COMMIT, "main"), "commit", "match pattern"),
    "a short commit": (replaced(COMMIT, COMMIT[:12]), "commit", "match pattern"),
    "no commit": (replaced(f'commit = "{COMMIT}"', ""), "file", "together or not at all"),
    "no authors": (SAID.replace(AUTHORS, "[]"), "authors", "1 item"),
    "one author as text": (
        SAID.replace(AUTHORS, '"Ada"'), "authors", "valid list"),
    "a crowd": (f"title = 'x'\nauthors = {['a'] * 51}", "authors", "at most 50"),
    "an unknown field": (SAID + "score = 1.0\n", "score", "extra inputs"),
    "records of one's own": (SAID + "[records]\na = 'b'\n", "records", "extra inputs"),
    "a number for a title": (SAID.replace(f'"{TITLE}"', "1"), "title", "valid string"),
    "a date for a title": (SAID.replace(f'"{TITLE}"', "2026-11-26"), "title", "valid string"),
    "no title": ("authors = ['Ada']\n", "title", "field required"),
    "a field that is given twice": (SAID + SAID, "file", "is no TOML"),
    "no TOML": ("{}", "file", "is no TOML"),
    "deep nesting": ("a = " + "[" * 9000, "file", "is no TOML"),
    "too much": (SAID + "#" * (16 << 10), "file", "at most 16,384"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_file_is_refused(kind: str, tmp_path: Path) -> None:
    text, field, reason = FORGED[kind]
    (tmp_path / "records").mkdir()
    found = [one for one in verify(sent(tmp_path, text)).findings if one.file == "submission.toml"]
    assert [(one.field, reason in one.reason) for one in found] == [(field, True)], found


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def linked(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere.toml")


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (no_text, "is no TOML"),
        (linked, "no plain file"),
        (Path.mkdir, "no plain file"),
        (lambda path: (path.write_text(""), sparse(path, 1 << 30)), "at most 16,384"),
    ],
)
def test_a_forged_file_refuses_the_whole_run(
    forge: Callable[[Path], object], reason: str, played: Path, tmp_path: Path
) -> None:
    forge(played / "submission.toml")
    (line,) = refused(played, tmp_path / "boards")
    assert line.startswith("submission.toml: file: ")
    assert reason in line


def rewritten(path: Path, **changes: object) -> None:
    """A careful forger's file, written as the command would."""
    said = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def claimed_twice(path: Path) -> None:
    other = path.with_name("mine.json")
    shutil.copyfile(path, other)
    rewritten(other, title="Mine")


#: What is done to the file of a board, and the field and the reason that are named.
ON_A_BOARD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "records of nobody": (
        lambda path: rewritten(path, records={"0" * 64: "1" * 64}), "records.000000000000…",
        "is of no record here"),
    "another's records": (claimed_twice, "records.*", "came with submissions/mine.json already"),
    "no records": (lambda path: rewritten(path, records={}), "records", "at least 1 item"),
    "markup": (lambda path: rewritten(path, title="<b>"), "title", "has '<'"),
    "another title": (
        lambda path: rewritten(path, title="Mine"), "title", "belongs to submissions/mine.json"),
    "a script for a link": (
        lambda path: rewritten(path, paper="javascript:alert(1)"), "paper", "match pattern"),
    "an unknown field": (lambda path: rewritten(path, rank=1), "rank", "extra inputs"),
    "other blanks": (
        lambda path: path.write_text(path.read_text() + " "), "file", "is not written as"),
    "a field twice": (
        lambda path: path.write_text(path.read_text().replace("{", '{\n "title": "x",', 1)),
        "file", "is not written as"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04K\x01."), "file", "invalid JSON"),
    "a huge file": (lambda path: sparse(path, 1 << 30), "file", "at most 2,097,152"),
    "a link": (
        lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "file", "no plain file"),
    "a program": (lambda path: path.rename(path.with_name("x.py")), "title", "belongs to"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ON_A_BOARD)
def test_a_forged_file_of_a_board_is_found(kind: str, played: Path, tmp_path: Path) -> None:
    forge, field, reason = ON_A_BOARD[kind]
    folder = submit(sent(played), tmp_path / "boards").folder
    forge(folder / "submissions" / "repairing-stripes.json")
    found = verify(folder).findings
    assert found
    for one in found:
        assert one.file.startswith("submissions/")
        assert one.field.startswith(field.rstrip("*")), one
        assert reason in one.reason, one
    # What one's own file says of records may be what an interrupted submission left.
    of_records = ("records of nobody", "another's records", "a program")
    for title in ("Other", TITLE):
        if title != TITLE or kind not in of_records:
            with pytest.raises(Rejected):
                review(sent(played, SAID.replace(TITLE, title)), tmp_path / "boards")


def test_a_record_that_was_replaced_is_nobody_s(played: Path, tmp_path: Path) -> None:
    folder = submit(sent(played), tmp_path / "boards").folder
    path = record_of(folder, REPAIRED)
    path.write_text(path.read_text().replace('"seconds"', '"seconds" '))
    (finding,) = verify(folder).findings
    assert finding.file == "submissions/repairing-stripes.json"
    assert "is of no record here, or of one that was replaced" in finding.reason


def test_a_board_is_not_built_from_a_forged_file(played: Path, tmp_path: Path) -> None:
    folder = submit(sent(played), tmp_path / "boards").folder
    rewritten(folder / "submissions" / "repairing-stripes.json", title="<b>")
    with pytest.raises(StoreError, match=r"repairing-stripes\.json: title: has '<'.*restore or"):
        build(folder)


def test_a_folder_that_is_a_link_is_not_followed(played: Path, tmp_path: Path) -> None:
    (tmp_path / "aside").mkdir()
    (played / "submissions").symlink_to(tmp_path / "aside")
    (finding,) = verify(played).findings
    assert (finding.file, "is a link" in finding.reason) == ("submissions", True)


def test_the_command_says_who_is_named(played: Path, tmp_path: Path) -> None:
    words = ["submit", str(sent(played)), "--boards", str(tmp_path / "boards"), "--no-replay"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "they came with 'Repairing stripes' by Ada Lovelace, Zoë O’Hara, 李明" in done.output
    (played / "submission.toml").unlink()
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert "has no submission.toml, so the board will not say who sent it" in done.output


def test_a_title_without_latin_letters_has_a_name_too() -> None:
    assert credits.name_of("Repairing stripes, v2") == "repairing-stripes-v2"
    assert len({credits.name_of(title) for title in ("条纹", "斑点")}) == 2
    assert all(credits.name_of(title).isalnum() for title in ("条纹", "斑点"))
