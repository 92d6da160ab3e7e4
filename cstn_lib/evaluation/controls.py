"""What boxes are worth that ask no network, or nothing of its votes: the controls of every table.

A method finds objects only as far as it is ahead of boxes that know where objects usually lie.
What is chosen here is chosen on val.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from cstn_lib.evaluation.boxes import BoxList, best_iou
from cstn_lib.evaluation.metrics import (
    IOU_THRESHOLD,
    box_hits,
    ground_truth,
    middle_best,
    threshold_hits,
)
from cstn_lib.evaluation.predictions import array


def centred_square(side: float) -> np.ndarray:
    """(4,) the square of that side, in [0, 1], in the middle of the image."""
    return _squares(np.array([0.5, 0.5]), side)


def best_centred_square(truth: BoxList) -> float:
    """The side of the one centred square that hits most images: the baseline without learning.

    Sides are tried in steps of 1/80 of the image; of equally good ones the middle is taken.
    """
    sides = np.arange(1, 81) / 80
    squares = np.stack([centred_square(side) for side in sides])
    return float(sides[middle_best(_hits(squares, truth).mean(axis=0))])


def greedy_cover(hit: np.ndarray, count: int = 5) -> list[int]:
    """`count` columns of hit (n, m) that together hit many rows: each adds the most to the last."""
    chosen, covered = [], np.zeros(len(hit), bool)
    for _ in range(count):
        chosen.append(int((hit & ~covered[:, None]).sum(axis=0).argmax()))
        covered |= hit[:, chosen[-1]]
    return chosen


def five_fixed_boxes(truth: BoxList) -> np.ndarray:
    """(5, 4) boxes that together hit most images, with no network: what a Top-5 box must beat.

    Chosen one after the other among boxes of all shapes whose sides and centres are tenths of the
    image.
    """
    sides, centres = np.arange(2, 11) / 10, np.arange(3, 8) / 10
    grid = np.array(list(product(centres, centres, sides, sides)))
    boxes = np.concatenate([grid[:, :2] - grid[:, 2:] / 2, grid[:, :2] + grid[:, 2:] / 2], axis=1)
    boxes = boxes.clip(0, 1)
    return boxes[greedy_cover(_hits(boxes, truth))]


def five_thresholds(val: pd.DataFrame) -> list[int]:
    """Five indices of `THRESHOLDS` whose boxes together hit most images of a table of score maps:
    what gives CAM as many tries as CSTN's five best boxes have."""
    return greedy_cover(threshold_hits(val))


def fixed_hits(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """(n,) whether one of the boxes (k, 4), the same for all images, hits."""
    return _hits(boxes, truth).any(axis=1)


def mean_boxes(table: pd.DataFrame) -> np.ndarray:
    """(n, 4) for each image the mean box of its winning location, without a look at the image.

    The mean is taken over the images of the other half of the table that have the location among
    their five best; a location that none of them has gives its level's mean box. What CSTN's boxes
    find beyond these is what theta reads from the image, and not a habit of the location.
    """
    location = array(table, "true_location")
    cell = location[..., 0] * 1000 + location[..., 1] + 1_000_000 * array(table, "true_level")
    boxes, half = array(table, "true_box"), np.arange(len(table)) % 2
    result = np.empty((len(table), 4))
    for side in (0, 1):
        seen = cell[half != side].ravel()
        among = pd.DataFrame(boxes[half != side].reshape(-1, 4), index=seen)
        by_cell, by_level = among.groupby(level=0).mean(), among.groupby(seen // 1_000_000).mean()
        mine = cell[half == side, 0]
        own, level = by_cell.reindex(mine), by_level.reindex(mine // 1_000_000)
        result[half == side] = own.where(own.notna(), level.to_numpy()).fillna(among.mean())
    return result


def squares_at_centres(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """(n, 4) one square for all, at the centres of boxes (n, 4): what is right by place alone.

    Its side is the one that hits most of these images, so this control is a little too good.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = np.arange(8, 81) / 80
    squares = np.stack([_squares(centres, side) for side in sides], axis=1)  # (n, sides, 4)
    rates = (best_iou(squares, truth) >= IOU_THRESHOLD).mean(axis=0)
    return squares[:, middle_best(rates)]


def mean_box_hits(table: pd.DataFrame) -> np.ndarray:
    """(n,) which images `mean_boxes` find."""
    return box_hits(mean_boxes(table), ground_truth(table))


def moved_square_hits(table: pd.DataFrame) -> np.ndarray:
    """(n,) which images `squares_at_centres` find at the centres of the winning boxes."""
    truth = ground_truth(table)
    return box_hits(squares_at_centres(array(table, "true_box")[:, 0], truth), truth)


def _squares(centres: np.ndarray, side: float) -> np.ndarray:
    return np.concatenate([centres - side / 2, centres + side / 2], axis=-1).clip(0, 1)


def _hits(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """(n, m) which images each of the boxes (m, 4) hits."""
    images = len(truth.offsets) - 1
    return best_iou(np.broadcast_to(boxes, (images, *boxes.shape)), truth) >= IOU_THRESHOLD
