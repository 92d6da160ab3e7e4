"""What the paper measures (section IV-A), from the predictions table alone.

* **Top-1 Class**: the predicted class is the true one.
* **Top-1 Loc**: it is, and its best box overlaps a ground-truth box with IoU >= 0.5.
* **GT-Known Loc**: the best box under the true class does.
* **Top-5 box Loc**: one of the five best boxes under the true class does.
* **Any box**: some box of the image does, whatever its score; the paper calls it recall.

An image with several ground-truth boxes counts as localized when any of them is hit. All values are
fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from cstn_lib.predictions import array

__all__ = [
    "IOU_THRESHOLD",
    "AreaHistogram",
    "BoxList",
    "Interval",
    "area_histogram",
    "best_centred_square",
    "best_iou",
    "box_area",
    "centred_square",
    "evaluate",
    "ground_truth",
    "hits",
    "image_interval",
    "paired_iou",
    "seed_interval",
]

IOU_THRESHOLD = 0.5


class BoxList(NamedTuple):
    """Any number of boxes an image: rows ``offsets[i]:offsets[i + 1]`` of (M, 4) are image i's."""

    boxes: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, boxes: Sequence[np.ndarray]) -> BoxList:
        """From one array an image, flat or (n, 4)."""
        offsets = np.concatenate([[0], np.cumsum([b.size // 4 for b in boxes])])
        return cls(np.concatenate([b.reshape(-1, 4) for b in boxes]), offsets)


def ground_truth(table: pd.DataFrame) -> BoxList:
    """The ground-truth boxes of a predictions table."""
    return BoxList.of(table["gt_boxes"].to_numpy())


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) with boxes (..., 4), pair by pair; 0 where both are empty."""
    corner = np.maximum(a[..., :2], b[..., :2])
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - corner, 0, None).prod(axis=-1)
    union = box_area(a) + box_area(b) - overlap
    return np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas (...) of ``xyxy`` boxes (..., 4), as fractions of the image."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def best_iou(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """IoU of each box with the ground-truth box of its image that it overlaps most.

    Args:
        boxes: (n, k, 4), k boxes an image.

    Returns:
        (n, k); 0 for an image without ground truth.
    """
    counts = np.diff(truth.offsets)
    owners = np.repeat(np.arange(len(boxes)), counts)
    pairs = paired_iou(boxes[owners].astype(np.float64), truth.boxes[:, None].astype(np.float64))
    result = np.zeros(boxes.shape[:2])
    if len(pairs):
        result[counts > 0] = np.maximum.reduceat(pairs, truth.offsets[:-1][counts > 0])
    return result


def hits(table: pd.DataFrame, *, transform: bool = True) -> pd.DataFrame:
    """Image by image, what is right: one boolean column a metric.

    Args:
        transform: False judges the default boxes of the same locations (Table I, left column).
    """
    truth = ground_truth(table)
    kind = "box" if transform else "default_box"
    right_class = (table["label"] == table["predicted"]).to_numpy()
    predicted = best_iou(array(table, f"predicted_{kind}")[:, :1], truth)[:, 0]
    known = best_iou(array(table, f"true_{kind}"), truth)
    anywhere = table["any_iou" if transform else "any_default_iou"].to_numpy()
    return pd.DataFrame(
        {
            "top1_class": right_class,
            "top1_loc": right_class & (predicted >= IOU_THRESHOLD),
            "gt_known_loc": known[:, 0] >= IOU_THRESHOLD,
            "top5_box_loc": known.max(axis=1) >= IOU_THRESHOLD,
            "any_box": anywhere >= IOU_THRESHOLD,
        }
    )


def evaluate(table: pd.DataFrame, *, transform: bool = True) -> dict[str, float]:
    """The metrics of the module's list, as fractions of the images."""
    return hits(table, transform=transform).mean().to_dict()


def centred_square(side: float) -> np.ndarray:
    """(4,) the square of that side, in [0, 1], in the middle of the image."""
    return np.array([0.5 - side / 2] * 2 + [0.5 + side / 2] * 2)


def best_centred_square(truth: BoxList) -> float:
    """The side of the one centred square that hits most images: the baseline without learning.

    It is a hyper-parameter, so it is chosen on the validation split. Sides are tried in steps of
    1/80 of the image; of equally good ones the middle is taken.
    """
    sides = np.arange(1, 81) / 80
    squares = np.stack([centred_square(side) for side in sides])
    images = len(truth.offsets) - 1
    rates = (best_iou(np.broadcast_to(squares, (images, 80, 4)), truth) >= IOU_THRESHOLD).mean(0)
    best = np.flatnonzero(rates == rates.max())
    return float(sides[best[len(best) // 2]])


@dataclass(frozen=True)
class AreaHistogram:
    """Counts by area of the ground truth (Fig. 6 and 8).

    Attributes:
        edges: (bins + 1,) areas as fractions of the image.
        images: (bins,) how many images.
        localized: by name, (bins,) how many of them are localized.
    """

    edges: np.ndarray
    images: np.ndarray
    localized: dict[str, np.ndarray]


def area_histogram(areas: np.ndarray, hit: dict[str, np.ndarray], bins: int = 10) -> AreaHistogram:
    """Bins of equal width over the range of the ground-truth areas.

    Args:
        areas: (n,) as fractions of the image.
        hit: by name, (n,) booleans.
    """
    edges = np.histogram_bin_edges(areas, bins)
    return AreaHistogram(
        edges,
        np.histogram(areas, edges)[0],
        {name: np.histogram(areas[right], edges)[0] for name, right in hit.items()},
    )


class Interval(NamedTuple):
    """A mean with the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def image_interval(right: np.ndarray) -> Interval:
    """Wilson's interval of a fraction of images: the uncertainty of a finite test set."""
    result = stats.binomtest(int(np.sum(right)), len(right)).proportion_ci(method="wilson")
    return Interval(float(np.mean(right)), float(result.low), float(result.high))


def seed_interval(values: np.ndarray) -> Interval:
    """Student's interval of a mean over seeds: the uncertainty of training. NaN for one seed."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - reach, mean + reach)
