"""The predictions table: everything tables and figures need, so that no network runs twice.

One row per image. Every table has

| column | content |
|---|---|
| ``image`` | index in the split |
| ``label``, ``predicted`` | true class; argmax of p(c) |
| ``predicted_prob``, ``true_prob`` | p(c) of either |
| ``gt_boxes`` | n x 4 ground-truth boxes, flat |
| ``true_box`` | k x 4 boxes under the true class, best first |
| ``any_iou`` | best IoU with the ground truth over all boxes of the image |

A network that votes (`cstn_lib.outputs.LocalizerOutput`) adds the following. Columns whose name
begins with ``predicted_`` describe the best locations under the predicted class, those with
``true_`` the best under the true class; each holds up to five locations, best first (section IV-A:
the Top-1 box, the GT-Known box, the Top-5 boxes).

| column | content |
|---|---|
| ``*_score`` | k values log p(c, l, s) |
| ``*_level`` | k pyramid levels (4 or 5) |
| ``*_location`` | k x 2 (row, column) on its level |
| ``*_theta`` | k x 6 entries of theta, row by row |
| ``*_default_box``, ``*_box`` | k x 4, theta = identity and transformed |
| ``*_fused_box`` | 4, what `cstn_lib.evaluation.choosing.fused` makes of all votes |
| ``true_locations`` | how many locations share the vote p(l, s given c): exp of its entropy |
| ``level_score``, ``level_box`` | the best location of each level under the true class: S, S x 4 |
| ``any_default_iou`` | best IoU with the ground truth over all default boxes |

A network with score maps (`cstn_lib.evaluation.score_maps`) has one ``true_box``, found at the
fixed threshold of 20 %, and beside it, for T thresholds

| column | content |
|---|---|
| ``threshold_boxes`` | T x 4, the box of the largest component at each threshold |
| ``threshold_any_iou`` | T, best IoU with the ground truth over all components at each threshold |

There is no box under its predicted class: where the class is right, that is the true class.

Where three views of each image were asked (`cstn_lib.evaluation.views`), that holds for both kinds:
the table has the first columns, with the one fused ``true_box`` of a network that votes, and of
score maps the thresholds.

Boxes are ``xyxy`` in [0, 1]. The table is a Parquet file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cstn_lib.evaluation.boxes import BoxList, best_iou
from cstn_lib.evaluation.choosing import fused
from cstn_lib.evaluation.score_maps import CAM_THRESHOLD, THRESHOLDS, boxes_at, resized
from cstn_lib.geometry import identity_theta
from cstn_lib.joint import class_log_prob, locations, top_locations
from cstn_lib.outputs import LocalizerOutput, ScoreMapOutput, normalized
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError, first_line

TABLE_VERSION = 2
"""Part of a table's file name; raised when the same network would get another table."""

TOP_K = 5

CLASS_COLUMNS = ("label", "predicted", "predicted_prob", "true_prob")
"""What `describe` says of the classes."""

WIDTHS = {"location": 2, "theta": 6, "default_box": 4, "box": 4, "fused_box": 4, "boxes": 4}
"""Numbers per entry in the flat list columns, by what follows the first ``_`` of their names."""


def describe(output: LocalizerOutput | ScoreMapOutput, labels: Tensor) -> dict[str, Tensor]:
    """The columns that a batch's output decides, as tensors with B rows.

    Among them is what `judge` replaces when the truth is known: the ``score_map`` of the true class
    (B, h, w), or all ``boxes`` and ``default_boxes`` (B, N, 4) of a network that votes.

    Args:
        labels: (B,) int64 true classes.
    """
    log_joint = None if isinstance(output, ScoreMapOutput) else output.log_joint
    if log_joint is None:
        log_class = output.logits.float().log_softmax(dim=1)
    else:
        log_class = class_log_prob(log_joint)
    predicted = log_class.argmax(dim=1)
    rows = torch.arange(len(labels), device=labels.device)
    probabilities = log_class[rows, predicted].exp(), log_class[rows, labels].exp()
    columns = dict(zip(CLASS_COLUMNS, (labels, predicted, *probabilities), strict=True))
    if log_joint is None:
        return columns | {"score_map": output.maps[rows, labels].float()}
    return columns | _describe_votes(output, log_joint, {"predicted": predicted, "true": labels})


def _describe_votes(
    output: LocalizerOutput, log_joint: Tensor, asked: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The best locations under the classes asked for, those of each level, and all boxes."""
    labels = asked["true"]
    where = locations(output.sizes, labels.device)
    numbers = torch.tensor([int(name) for name in output.level_names], device=labels.device)
    theta = _flat_thetas(output)
    rows = torch.arange(len(labels), device=labels.device)
    columns = {}
    for who, classes in asked.items():
        score, index = top_locations(log_joint, classes, TOP_K)  # (B, k)
        columns |= {
            f"{who}_score": score,
            f"{who}_level": numbers[where.level[index]],
            f"{who}_location": torch.stack([where.row[index], where.column[index]], -1).flatten(1),
            f"{who}_theta": theta.gather(1, index[..., None].expand(-1, -1, 6)).flatten(1),
            f"{who}_default_box": output.default_boxes[index].flatten(1),
            f"{who}_box": output.boxes.gather(1, index[..., None].expand(-1, -1, 4)).flatten(1),
            f"{who}_fused_box": fused(log_joint[rows, classes], output.boxes),
        }
    cells = [h * w for h, w in output.sizes]
    log_vote = log_joint[rows, labels]
    best = [level.max(dim=1) for level in log_vote.split(cells, dim=1)]
    vote = log_vote.softmax(dim=1)
    boxes = [
        boxes[rows, level.indices]
        for boxes, level in zip(output.boxes.split(cells, dim=1), best, strict=True)
    ]
    return columns | {
        "true_locations": torch.special.entr(vote).sum(dim=1).exp(),
        "level_score": torch.stack([level.values for level in best], 1),
        "level_box": torch.stack(boxes, 1).flatten(1),
        "boxes": output.boxes,
        "default_boxes": output.default_boxes.expand_as(output.boxes),
    }


def _flat_thetas(output: LocalizerOutput) -> Tensor:
    """(B, N, 6) thetas of all locations; the identity where the network has no transform."""
    if not output.thetas:
        return identity_theta(output.boxes).reshape(6).expand(*output.boxes.shape[:2], 6)
    return torch.cat([t.float().flatten(1, 2).flatten(2) for t in output.thetas], dim=1)


def judge(
    columns: dict[str, np.ndarray], truth: BoxList, image_size: tuple[int, int], *, sweep: bool
) -> dict[str, np.ndarray]:
    """The columns of `describe`, with maps or all boxes replaced by what they hit of the truth.

    Args:
        columns: of B images.
        truth: their ground-truth boxes.
        image_size: height and width in pixels.
        sweep: whether score maps are judged at all of `THRESHOLDS`, as the final tables need them,
            or at `CAM_THRESHOLD` alone, which is enough to watch a training.
    """
    judged = dict(columns)
    if "score_map" not in columns:
        for kind in ("default_boxes", "boxes"):
            if kind in judged:
                best = best_iou(judged.pop(kind), truth).max(axis=1)
                judged[f"any_{kind.removesuffix('boxes')}iou"] = best
        return judged
    maps = resized(normalized(torch.from_numpy(judged.pop("score_map"))), image_size).numpy()
    thresholds = THRESHOLDS if sweep else (CAM_THRESHOLD,)
    largest, anywhere = boxes_at(maps, thresholds, truth)
    fixed = thresholds.index(CAM_THRESHOLD)
    judged |= {"true_box": largest[:, fixed], "any_iou": anywhere[:, fixed]}
    if sweep:
        judged["threshold_boxes"] = largest.reshape(len(largest), -1)
        judged["threshold_any_iou"] = anywhere
    return judged


def to_table(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """A table of equally long arrays; two-dimensional ones become list columns."""
    return pd.DataFrame({k: list(v) if v.ndim == 2 else v for k, v in columns.items()})


def array(table: pd.DataFrame, column: str) -> np.ndarray:
    """A list column as one array: (n, k), or (n, k, width) for locations, thetas and boxes."""
    values = np.stack(table[column].to_numpy())
    width = WIDTHS.get(column.split("_", 1)[1]) if "_" in column else None
    return values if width is None else values.reshape(len(values), -1, width)


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table as Parquet, whole or not at all."""
    with atomic_file(path) as temporary:
        table.to_parquet(temporary, index=False)


def load_table(path: Path) -> pd.DataFrame:
    """Read a table written by `save_table`.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            return pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot read this predictions table ({first_line(error)}); delete it to have "
            "it made again"
        ) from error
