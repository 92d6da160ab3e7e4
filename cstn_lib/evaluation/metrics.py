"""What the paper measures (section IV-A), from the predictions table alone.

* **Top-1 Class**: the predicted class is the true one.
* **Top-1 Loc**: it is, and its best box overlaps a ground-truth box with IoU >= 0.5.
* **GT-Known Loc**: the best box under the true class does.
* **Top-5 box Loc**: one of the five best boxes under the true class does.
* **Any box**: some box of the image does, whatever its score; the paper calls it recall.
* **MaxBoxAcc**, **MaxBoxAccV2**: see `max_box_acc` and `max_box_acc_v2`.

An image with several ground-truth boxes counts as localized when any of them is hit. All values are
fractions in [0, 1].

A score map (`cstn_lib.evaluation.score_maps`) needs a threshold to give a box. It is a
hyper-parameter: `choose_threshold` finds it on val, `hits` and `evaluate` take it on test. Without
one, tables of score maps are judged at 20 % of each map's range. (The original CAM's 20 % are of a
map's maximum, negative values cut off: another box, see `cstn_lib.evaluation.score_maps`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from cstn_lib.evaluation.boxes import BoxList, best_iou, box_area, paired_iou  # noqa: F401
from cstn_lib.evaluation.predictions import array
from cstn_lib.evaluation.score_maps import THRESHOLDS
from cstn_lib.support.errors import InputError

IOU_THRESHOLD = 0.5
MAX_BOX_ACC_IOUS = (0.3, 0.5, 0.7)


def ground_truth(table: pd.DataFrame) -> BoxList:
    """The ground-truth boxes of a predictions table."""
    return BoxList.of(table["gt_boxes"].to_numpy())


def hits(
    table: pd.DataFrame, *, transform: bool = True, threshold: float | None = None
) -> pd.DataFrame:
    """Image by image, what is right: one boolean column per metric.

    Args:
        transform: False judges the default boxes of the same locations (Table I, left column).
        threshold: of `THRESHOLDS`, for a table of score maps, instead of 20 %. There an image has
            one box, so Top-5 box Loc is GT-Known Loc; and any box means any component.

    Raises:
        InputError: the table has no boxes of that kind.
    """
    kind = "box" if transform else "default_box"
    if threshold is not None:
        at = _threshold_index(table, threshold)
        boxes = array(table, "threshold_boxes")[:, at : at + 1]
        anywhere = array(table, "threshold_any_iou")[:, at]
    elif f"true_{kind}" in table:
        boxes = array(table, f"true_{kind}")
        anywhere = table["any_iou" if transform else "any_default_iou"].to_numpy()
    else:
        raise InputError("transform False: expected a table of a network with default boxes")
    right_class = (table["label"] == table["predicted"]).to_numpy()
    known = best_iou(boxes, ground_truth(table)) >= IOU_THRESHOLD
    return pd.DataFrame(
        {
            "top1_class": right_class,
            # the best box under the predicted class: where that is right, under the true one
            "top1_loc": right_class & known[:, 0],
            "gt_known_loc": known[:, 0],
            "top5_box_loc": known.any(axis=1),
            "any_box": anywhere >= IOU_THRESHOLD,
        }
    )


def by_fusion(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a network that votes with the fused box in the place of its best five.

    All of this module then judges that one box: Top-5 box Loc, too.

    Raises:
        InputError: the table has no such box.
    """
    if "true_fused_box" not in table:
        raise InputError("fused box: expected a table of a network that votes, made anew")
    fused = {f"{who}_box": table[f"{who}_fused_box"] for who in ("predicted", "true")}
    return table.assign(**fused)


def evaluate(
    table: pd.DataFrame, *, transform: bool = True, threshold: float | None = None
) -> dict[str, float]:
    """The metrics of `hits`, as fractions of the images."""
    return hits(table, transform=transform, threshold=threshold).mean().to_dict()


def threshold_curve(table: pd.DataFrame, iou: float = IOU_THRESHOLD) -> np.ndarray:
    """(T,) GT-Known Loc at that IoU for each of `THRESHOLDS`.

    Raises:
        InputError: the table has no score maps.
    """
    return threshold_hits(table, iou).mean(axis=0)


def threshold_hits(table: pd.DataFrame, iou: float = IOU_THRESHOLD) -> np.ndarray:
    """(n, T) which images the box at each of `THRESHOLDS` hits; raises as `threshold_curve`."""
    _threshold_index(table, THRESHOLDS[0])
    boxes, truth = array(table, "threshold_boxes"), ground_truth(table)
    # threshold by threshold: all at once would not fit into memory for ILSVRC
    ious = [best_iou(boxes[:, [at]], truth) >= iou for at in range(len(THRESHOLDS))]
    return np.concatenate(ious, axis=1)


def choose_threshold(val: pd.DataFrame) -> float | None:
    """The threshold that serves GT-Known Loc best on val; of equally good ones the middle.

    None where there is nothing to choose: the table has no score maps.
    """
    if "threshold_boxes" not in val:
        return None
    curve = threshold_curve(val)
    return THRESHOLDS[middle_best(curve)]


def box_hits(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """(n,) which images one box each, of (n, 4), hits."""
    return best_iou(boxes[:, None], truth)[:, 0] >= IOU_THRESHOLD


def middle_best(values: np.ndarray) -> int:
    """The index of the largest value; of equal ones the middle."""
    best = np.flatnonzero(values == values.max())
    return int(best[len(best) // 2])


def max_box_acc(table: pd.DataFrame, iou: float = IOU_THRESHOLD) -> float:
    """MaxBoxAcc (Choe et al., CVPR 2020): GT-Known Loc at the threshold that is best for the table.

    By its definition the maximum is taken over the judged images themselves: it asks what the maps
    hold, not what a threshold chosen beforehand finds. A method with one box and no threshold has
    its GT-Known Loc.
    """
    if "threshold_boxes" in table:
        return float(threshold_curve(table, iou).max())
    return float((best_iou(array(table, "true_box")[:, :1], ground_truth(table)) >= iou).mean())


def in_published_pixels(table: pd.DataFrame, image_size: tuple[int, int]) -> pd.DataFrame:
    """The table with boxes as wsolevaluation has them, the code that Choe et al. published.

    Corners are whole pixels, cut off at the last one, and both ends belong to a box. So a found box
    is a pixel wider and higher, and `max_box_acc` of this table reads up to 3 points higher than
    of ours. (`max_box_acc_v2` does not change: its IoUs were computed with the maps.) Boxes stay in
    pixels: of whole numbers an IoU of exactly one half is one half.

    Args:
        table: of score maps.
        image_size: height and width in pixels.
    """
    most = np.array([image_size[1], image_size[0]] * 2)

    def inclusive(boxes: np.ndarray) -> np.ndarray:
        boxes = np.reshape(boxes, (-1, 4))
        corners = np.clip(np.floor(boxes * most + 1e-3), 0, most - 1)
        corners[:, 2:] += boxes.any(axis=1, keepdims=True)  # an empty box stays empty
        return np.ravel(corners)

    _threshold_index(table, THRESHOLDS[0])
    return table.assign(
        threshold_boxes=table["threshold_boxes"].map(inclusive),
        gt_boxes=table["gt_boxes"].map(inclusive),
    )


def max_box_acc_v2(table: pd.DataFrame) -> np.ndarray:
    """MaxBoxAccV2 (Choe et al., 2020, journal version): the mean over IoU 0.3, 0.5 and 0.7.

    Image by image, (n,) in [0, 1]: the measure is the mean of these.

    At each IoU an image counts when any component's box hits any ground-truth box, at the threshold
    that is best for the table and this IoU. For a method with one box and no threshold, such as
    CSTN, it is the mean of GT-Known Loc at the three IoUs.
    """
    if "threshold_boxes" in table:
        found = array(table, "threshold_any_iou")
    else:
        found = best_iou(array(table, "true_box")[:, :1], ground_truth(table))
    hit = [found >= iou for iou in MAX_BOX_ACC_IOUS]
    return np.mean([one[:, one.mean(axis=0).argmax()] for one in hit], axis=0)


def _threshold_index(table: pd.DataFrame, threshold: float) -> int:
    if "threshold_boxes" not in table:
        raise InputError(f"threshold {threshold}: expected a table of score maps")
    if threshold not in THRESHOLDS:
        raise InputError(f"threshold {threshold}: expected one of 0.00, 0.02 ... 0.98")
    return THRESHOLDS.index(threshold)


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
    low, high = areas.min(), areas.max()
    if high - low < 1e-9:  # bins that narrow cannot be told apart
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
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


def mean_interval(values: np.ndarray, most: float = 1.0) -> Interval:
    """95 % interval of a mean over test images and, where there are several, over seeds.

    All seeds see the same images, so two things vary: which images are in the test set, and how a
    training comes out. Their variances add up, and Student's distribution has the degrees of
    freedom of the sum (Satterthwaite, Biometrics Bulletin 1946): near the number of images where
    the seeds agree, and near that of the seeds where they do not. A bootstrap over both would be
    too narrow then: three seeds drawn again are all the same one in 1 of 9 samples.

    A share's interval is Wilson's, for as many images as would give that variance (Dean and Pagano,
    Journal of Survey Statistics and Methodology 2015): it stays within [0, 1], and above 0 where
    none of the images is right.

    Args:
        values: (n,) or (seeds, n), an entry per image: booleans, whose mean is a share, or numbers,
            such as one method's hits less another's.
        most: the largest absolute value that the mean of numbers can have; its interval ends there.
    """
    values = np.atleast_2d(values)
    parts = [
        (means.var(ddof=1) / len(means), len(means) - 1)
        for means in (values.mean(axis=0), values.mean(axis=1))
        if len(means) > 1
    ]
    mean, variance = float(values.mean()), float(sum(part for part, _ in parts))
    freedom = np.inf
    if variance:
        freedom = variance**2 / float(sum(part**2 / free for part, free in parts))
    t = float(stats.t.ppf(0.975, freedom))
    middle, half, lowest = mean, t * float(np.sqrt(variance)), -most
    if values.dtype == bool:
        images = mean * (1 - mean) / variance if variance else values.shape[1]
        pull = t**2 / images
        middle = (mean + pull / 2) / (1 + pull)
        half = float(np.sqrt(pull * (mean * (1 - mean) + pull / 4))) / (1 + pull)
        lowest, most = 0.0, 1.0
    # rounding must put neither the mean outside nor an end
    low, high = min(middle - half, mean), max(middle + half, mean)
    return Interval(mean, float(max(lowest, low)), float(min(most, high)))
