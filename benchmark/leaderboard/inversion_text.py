"""The inversion game's part of a board's page."""

from __future__ import annotations

import pandas as pd

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.text import attack_text, cell_text, number, percent, table

INVERSION = """\
An inverter gets the model, one clean start image of another class and the target, and returns
a trigger, which is judged by the share of other test images of other classes that it puts into
the target class. "Best" is the paper's reading: for every start image the best of an inverter's
configurations on the very images that are reported, an oracle; "selected" takes the
configuration that worked best on other images. Inverters with few configurations are run again
from other starts until they have had as many runs as those with many: the columns "with
restarts". Nobody is told the true trigger's norm: radii are L2 norms in [0, 1] pixels, the same
for every attack. Rates are in percent, means over start images and models; brackets are 95 %
intervals, the wider of Wilson's over all images and Student's t over the start images of the
models that were played, so that they say little about other models where these are few.
"Published" is the best in Tab. 2 of Sun and Kolter, of ImageNet at 224 pixels, ten start images,
400 steps and N = 40: the order of inverters compares, rates do not.
"""
FIDELITY = """\
What the selected triggers are like. On the clean model: what they do to a model without the
backdoor, which tells a trigger from a perturbation that fools any model. ReASR: their success
on the pixels that the true trigger changes on an image only. Overlap: intersection over union of
those pixels with at most as many that the reversed one changes most. Norm: L2 of what the
reversed trigger changes on the start image, in units of the true trigger's. Distance: L2 between
the inverted and the truly triggered start image, likewise; an untouched image has about 1. Where
the true trigger covers more than half of the image, ReASR and overlap say nothing: a dash.
Target found: start images for which the target's trigger works better than that of every class
but the image's own, where every class has the best of its triggers over all radii, since nobody
knows the right one; AUC: the chance that it works better than one of them. The interval is over
models.
"""
RADII = """\
Triggers reversed for every class, at radii that are the same for every attack (Fig. 8 of Sun and
Kolter): ASR of the target's, and of those of the normal classes but the start image's own, their
mean and the largest. A backdoor shows where the target's is far above. Target found: start images
for which the target's trigger works better than that of every normal class; AUC: the chance that
it works better than one of them. Inverters without a radius have one line.
"""
SMOOTHED = """\
The smoothed classifier that is inverted (Tab. 5 of Sun and Kolter), in percent: accuracy, ASR
of the true trigger, and target answers to untriggered images of other classes at the same noise
level. Where the last is high, ASR says nothing about the trigger.
"""
PICTURES = """\
Rows are start images, each with its selected configuration: how the inverted image comes about,
its difference from the start scaled to the full range, and the true trigger likewise.
"""


def inversion_sections(board: Board) -> list[str]:
    frames = board.frames
    parts = [
        "## Inversion from a single image",
        INVERSION.rstrip(),
        _success(frames["inversions"], frames["victims"]),
    ]
    parts += ["![ASR over the noise level](configurations.svg)"]
    parts += ["### Fidelity and target", FIDELITY.rstrip(), _fidelity(frames["inversions"])]
    parts += ["### All classes over the radius", RADII.rstrip()]
    parts += [_radii(frames["radii"])]
    parts += ["![ASR over the radius](radii.svg)"]
    if board.used:
        used = [f"{what} `{sha[:12]}` by {cell_text(by)}" for what, sha, by in board.used]
        parts += [f"Used besides the models: {'; '.join(used)}."]
    if "smoothed" in frames:
        parts += ["### Smoothed classifiers", SMOOTHED.rstrip(), _smoothed(frames["smoothed"])]
        parts += ["![Smoothed classifiers](smoothed.svg)"]
    parts += ["### Pictures", PICTURES.rstrip()]
    for picture in board.inverted:
        title = cell_text(picture.title)
        parts += [f"**{title}**\n\n![{title}](evidence/{picture.file})"]
    return parts


def _success(frame: pd.DataFrame, victims: pd.DataFrame) -> str:
    keys = ["attack", "m", "boost", "recipe"]
    true = {tuple(row[key] for key in keys): row for row in victims.to_dict("records")}
    nothing = {"asr": float("nan")}
    return table(
        [
            {
                "attack": attack_text(row),
                "inverter": cell_text(row["inverter"]),
                "true trigger": number(
                    100 * true.get(tuple(row[key] for key in keys), nothing)["asr"]
                ),
                "models x starts": f"{row['models']} x {row['starts']}",
                "configurations": str(row["configurations"]),
                "best": percent(row, "asr_best"),
                "published": number(100 * row["asr_published"]),
                "selected": percent(row, "asr_selected"),
                "runs": str(row["runs"]),
                "best with restarts": percent(row, "asr_best_restarts"),
                "selected with restarts": percent(row, "asr_selected_restarts"),
                "seconds per cell": number(row["seconds"], 0),
            }
            for row in frame.to_dict("records")
        ]
    )


def _fidelity(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "attack": attack_text(row),
                "inverter": cell_text(row["inverter"]),
                "on the clean model": percent(row, "asr_clean_model"),
                "ReASR": percent(row, "reasr"),
                "norm": number(row["norm"], 2),
                "overlap": number(row["overlap"], 2),
                "distance": number(row["distance"], 2),
                "target found": percent(row, "target_found"),
                "AUC": number(row["target_auc"], 2),
            }
            for row in frame.to_dict("records")
        ]
    )


def _radii(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "attack": attack_text(row),
                "inverter": cell_text(row["inverter"]),
                "ε": "–" if pd.isna(row["epsilon"]) else f"{row['epsilon']:g}",
                "models x starts": f"{row['models']} x {row['starts']}",
                "target": percent(row, "asr_target"),
                "normal, mean": percent(row, "asr_normal"),
                "normal, largest": percent(row, "asr_largest"),
                "target found": percent(row, "target_found"),
                "AUC": number(row["target_auc"], 2),
            }
            for row in frame.to_dict("records")
        ]
    )


def _smoothed(frame: pd.DataFrame) -> str:
    """Noise levels across; three lines for each attack and inverter."""
    names = {"clean": "accuracy", "asr": "ASR", "untriggered": "target, untriggered"}
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        for part, title in names.items():
            line = lines.setdefault((attack_text(row), cell_text(row["inverter"]), title), {})
            line[f"σ={row['sigma']:g}"] = number(100 * row[part])
    return table(
        [
            {"attack": attack, "inverter": inverter, "measure": title} | line
            for (attack, inverter, title), line in lines.items()
        ]
    )
