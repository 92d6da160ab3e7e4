"""Tables of the paper beside ours, computed from runs' predictions tables alone.

Values are percentages of the test images. With several seeds a cell is the mean over them and
``interval`` columns hold the half width of its 95 % interval (Student's).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cstn_lib.atomic import atomic_file
from cstn_lib.metrics import (
    IOU_THRESHOLD,
    best_centred_square,
    best_iou,
    centred_square,
    evaluate,
    ground_truth,
    seed_interval,
)
from cstn_lib.paper import STANDS_FOR, TABLE_1
from cstn_lib.runs import Run

__all__ = ["centred_square_loc", "save_table_files", "table_1"]


def table_1(runs: Sequence[Run]) -> pd.DataFrame:
    """Table I: what the transform adds, one row a data set.

    The same network and the same winning location, judged once by its default box and once by its
    transformed box. Beside the paper's columns stand the GT-Known values, the classification, and
    the fixed centred square that needs no network at all.

    Args:
        runs: of experiment ``cstn``; seeds of one data set are averaged.
    """
    rows = []
    for dataset in dict.fromkeys(run.experiment.data.name for run in runs):
        same = [run for run in runs if run.experiment.data.name == dataset]
        moved = [evaluate(run.predictions()) for run in same]
        fixed = [evaluate(run.predictions(), transform=False) for run in same]
        values = {
            "Top-1 Loc without transform": [f["top1_loc"] for f in fixed],
            "Top-1 Loc with transform": [m["top1_loc"] for m in moved],
            "GT-Known without transform": [f["gt_known_loc"] for f in fixed],
            "GT-Known with transform": [m["gt_known_loc"] for m in moved],
            "Top-5 box Loc": [m["top5_box_loc"] for m in moved],
            "Top-1 Class": [m["top1_class"] for m in moved],
        }
        row: dict[str, object] = {"data set": dataset, "seeds": len(same)}
        for name, fractions in values.items():
            row |= _cell(name, fractions, len(same) > 1)
        row["centred square"] = round(100 * centred_square_loc(same[0]), 2)
        published = TABLE_1.get(STANDS_FOR.get(dataset, ""), {})
        row["paper: data set"] = STANDS_FOR.get(dataset, "")
        for name in ("without transform", "with transform"):
            row[f"paper: Top-1 Loc {name}"] = published.get(name)
        rows.append(row)
    return pd.DataFrame(rows).set_index("data set")


def centred_square_loc(run: Run) -> float:
    """GT-Known Loc on test of one fixed centred square whose side was chosen on val, in [0, 1]."""
    side = best_centred_square(ground_truth(run.predictions("val")))
    truth = ground_truth(run.predictions())
    square = np.broadcast_to(centred_square(side), (len(truth.offsets) - 1, 1, 4))
    return float((best_iou(square, truth) >= IOU_THRESHOLD).mean())


def save_table_files(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write a table as ``name.csv`` and ``name.md``."""
    with atomic_file(folder / f"{name}.csv") as temporary:
        table.to_csv(temporary)
    with atomic_file(folder / f"{name}.md") as temporary:
        temporary.write_text(_markdown(table), encoding="utf-8")


def _cell(name: str, fractions: Sequence[float], several: bool) -> dict[str, float]:
    interval = seed_interval(100 * np.asarray(fractions))
    cell = {name: round(interval.mean, 2)}
    if several:
        cell[f"{name} ±"] = round(interval.high - interval.mean, 2)
    return cell


def _markdown(table: pd.DataFrame) -> str:
    frame = table.reset_index().map(lambda v: "" if v is None or v != v else f"{v}")
    header = [str(column) for column in frame.columns]
    lines = [header, ["---"] * len(header), *frame.to_numpy().tolist()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
