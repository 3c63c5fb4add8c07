"""The inversion game's section of a page."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.inversion_text import FIDELITY, INVERSION, PICTURES, RADII, SMOOTHED
from benchmark.leaderboard.page import pictures
from benchmark.leaderboard.page.charts import matrix
from benchmark.leaderboard.page.columns import general, rate, table
from benchmark.leaderboard.page.parts import ASR, WHO, Part, Picture, with_victims

CONFIGURATIONS = "Every configuration of an inverter by itself, without restarts."


def inversion(board: Board) -> Iterator[Part]:
    if "inversions" not in board.frames:
        return
    frame = with_victims(board, board.frames["inversions"])
    success = ("asr_selected", "asr_best", "asr_clean_model")
    who = [*WHO, "inverter"]
    yield Part(
        "inversions",
        INVERSION,
        matrix=matrix(
            "ASR of reversed triggers in percent, attacks down and inverters across",
            frame,
            "inverter",
            dict(zip(("selected", "best", "on the clean model"), success, strict=True)),
        ),
        table=table(
            "Success of every inverter against every attack",
            frame,
            [
                *(*who, "asr", "models", "starts", "configurations"),
                *("asr_best", "asr_published", "asr_selected"),
                *("runs", "asr_best_restarts", "asr_selected_restarts", "seconds"),
            ],
            known={"asr": ("true trigger", rate)},
        ),
    )
    used = "; ".join(f"{what} `{sha[:12]}` by {by}" for what, sha, by in board.used)
    yield Part(
        "fidelity",
        FIDELITY + (f"\nUsed besides the models: {used}.\n" if used else ""),
        "Fidelity and target",
        table=table(
            "What the selected triggers are like",
            frame,
            [
                *(*who, "asr_clean_model", "reasr", "norm", "overlap", "distance"),
                *("target_found", "target_auc"),
            ],
        ),
    )
    title = "All classes over the radius"
    yield Part("radii", RADII, title, table=table(title, board.frames["radii"]))
    if "configurations" in board.frames:
        tried = board.frames["configurations"]
        params = [name for name in tried if name not in (*who, "models", *ASR)]
        shown = table(
            "Configurations",
            tried,
            [*who, "models", *params, "asr"],
            # Whatever an inverter calls them.
            known={name: (name, general) for name in params},
        )
        yield Part("configurations", CONFIGURATIONS, "Configurations", table=shown)
    if "smoothed" in board.frames:
        title = "Smoothed classifiers"
        yield Part("smoothed", SMOOTHED, title, table=table(title, board.frames["smoothed"]))
    found = tuple(
        Picture(
            one.title,
            "start images, inverted images and the true trigger",
            pictures.png(board.folder / "evidence" / one.file),
            one.file,
        )
        for one in board.inverted
    )
    if found:
        yield Part("pictures", PICTURES, "Pictures", pictures=found)
