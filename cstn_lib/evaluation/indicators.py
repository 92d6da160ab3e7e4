"""What the votes and the transforms of a network mean, from its predictions table alone.

Rates alone do not tell a network whose votes point at the object from one that pushes every window
towards the middle of the image. These numbers do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cstn_lib.evaluation.boxes import BoxList, box_area, paired_iou
from cstn_lib.evaluation.controls import mean_boxes, squares_at_centres
from cstn_lib.evaluation.metrics import box_hits, ground_truth
from cstn_lib.evaluation.predictions import array

COLLAPSED = 0.1
"""A box below this share of its object's area covers a part of it at most."""


def indicators(table: pd.DataFrame) -> dict[str, float]:
    """What describes the votes and boxes under the true class, on the images of a table.

    Returns:
        ``winner's p``: median of p(l, s | c) of the winning location; ``locations``: median
        effective number of locations that share the vote (the exponential of its entropy);
        ``default box``, ``transformed box``, ``mean box``, ``square at its centre``: shares of
        images where that box of the winner, or control in its place, is right (see
        `cstn_lib.evaluation.controls`); ``corr. of log area``, ``of log aspect``, ``of centre x``,
        ``of centre y``: how the winning box follows the object; ``level 4 wins, small`` and so on:
        in each third of the images by the size of the object; ``collapsed``: share of winning boxes
        below `COLLAPSED` of their object's area.

    Raises:
        KeyError: the table is not one of a network that votes.
    """
    truth, boxes = ground_truth(table), array(table, "true_box")[:, 0]
    objects = matched_objects(boxes, truth)
    kinds = {
        "default box": array(table, "true_default_box")[:, 0],
        "transformed box": boxes,
        "mean box": mean_boxes(table),
        "square at its centre": squares_at_centres(boxes, truth),
    }
    follows = correlations(boxes, objects)
    votes = table["true_score"].map(lambda scores: scores[0]) - np.log(table["true_prob"])
    return {
        "winner's p": float(np.exp(votes).median()),
        "locations": float(table["true_locations"].median()),
        **{name: float(box_hits(kind, truth).mean()) for name, kind in kinds.items()},
        **{f"corr. of {name}": value for name, value in follows.items()},
        **_wins(table, box_area(objects)),
        "collapsed": float((box_area(boxes) < COLLAPSED * box_area(objects)).mean()),
    }


def correlations(boxes: np.ndarray, objects: np.ndarray) -> dict[str, float]:
    """How boxes (n, 4) follow objects (n, 4) over images, by ``log area`` and so on; see there."""
    ours, theirs = _shape(boxes), _shape(objects)
    return {name: _correlation(ours[name], theirs[name]) for name in ours}


def matched_objects(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """(n, 4) of each image the object that its box (n, 4) overlaps most, of equal ones the largest.

    Args:
        truth: at least one box per image.
    """
    owners = np.repeat(np.arange(len(boxes)), np.diff(truth.offsets))
    ious = paired_iou(boxes[owners].astype(float), truth.boxes.astype(float))
    order = np.lexsort((-box_area(truth.boxes), -ious, owners))
    return truth.boxes[order[truth.offsets[:-1]]].astype(float)


def thirds(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of the third of the images with the smallest objects, of the middle and the largest.

    Args:
        areas: (n,) as fractions of the image.
    """
    parts = np.array_split(np.argsort(areas, kind="stable"), 3)
    return dict(zip(("small", "middle", "large"), parts, strict=True))


def _wins(table: pd.DataFrame, areas: np.ndarray) -> dict[str, float]:
    among_five = array(table, "true_level")
    levels, finest = among_five[:, 0], among_five.min()
    return {
        f"level {finest} wins, {size}": float((levels[some] == finest).mean())
        for size, some in thirds(areas).items()
    }


def _shape(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Log area, log aspect and centre of boxes (n, 4); an empty side counts as a thousandth."""
    width, height = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3).T
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    return {
        "log area": np.log(width * height),
        "log aspect": np.log(width / height),
        "centre x": x,
        "centre y": y,
    }


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not vary."""
    varies = len(ours) > 1 and ours.std() > 1e-9 and theirs.std() > 1e-9
    return float(np.corrcoef(ours, theirs)[0, 1]) if varies else 0.0
