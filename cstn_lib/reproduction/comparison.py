"""Two methods on the same images: whose boxes are right, on which objects, and why not.

Tables IV and V rank methods by one number each; what explains a rank is found image by image, in
the predictions tables, of one box per image: the one that GT-Known Loc judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from cstn_lib.evaluation.boxes import BoxList, box_area, paired_iou
from cstn_lib.evaluation.indicators import matched_objects
from cstn_lib.evaluation.metrics import IOU_THRESHOLD, box_hits, choose_threshold, hits
from cstn_lib.evaluation.predictions import array
from cstn_lib.evaluation.score_maps import THRESHOLDS
from cstn_lib.reproduction.runs import Run

MISSES = ("right", "shifted", "too large", "too small")
"""What `kinds_of_misses` tells apart."""


def settings(run: Run) -> pd.Series:
    """Every field of a run's configuration as text, by its dotted name: what may differ fairly?"""
    return pd.json_normalize(asdict(run.experiment)).iloc[0].map(str)


def differing_settings(by_method: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """The fields in which methods differ, one column per method, read from their first seeds."""
    table = pd.DataFrame({name: settings(group[0]) for name, group in by_method.items()})
    table.loc["model.levels"] = [
        ", ".join(f"{level.kernel_size}" for level in group[0].experiment.model.levels)
        for group in by_method.values()
    ]
    told = ["name", "model.head", "seed"]
    return table[table.nunique(axis=1) > 1].drop(index=told, errors="ignore")


def hits_on_test(run: Run, *, transform: bool = True, views: bool = False) -> pd.DataFrame:
    """`evaluation.metrics.hits` on test; score maps at the threshold that is best on their val."""
    threshold = choose_threshold(run.predictions("val", views=views))
    return hits(run.predictions(views=views), transform=transform, threshold=threshold)


def gt_known_boxes(run: Run) -> np.ndarray:
    """(n, 4) the box under the true class of each test image, as `hits_on_test` judges it."""
    table, threshold = run.predictions(), choose_threshold(run.predictions("val"))
    if threshold is None:
        return array(table, "true_box")[:, 0]
    return array(table, "threshold_boxes")[:, THRESHOLDS.index(threshold)]


def hit_difference(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> np.ndarray:
    """(seeds, n) in -1, 0, 1: 1 where only ours is right on a test image, -1 where only theirs is.

    Subtracted image by image, what is easy or hard for both drops out.

    Args:
        ours, theirs: see `common_seeds`.
        metric: a column of `cstn_lib.evaluation.metrics.hits`.
    """
    return np.subtract(*(stacked_hits(runs, metric) for runs in common_seeds(ours, theirs)))


def common_seeds(*groups: Sequence[Run]) -> list[Sequence[Run]]:
    """As many runs of each experiment as all have, in the order given: a method has more seeds
    than a study."""
    most = min(map(len, groups))
    return [runs[:most] for runs in groups]


def stacked_hits(runs: Sequence[Run], metric: str, *, transform: bool = True) -> np.ndarray:
    """(seeds, n) 0 or 1: which test images are right, see `hits_on_test`.

    Args:
        metric: a column of it.
        transform: False judges the default boxes.
    """
    every = [hits_on_test(run, transform=transform)[metric] for run in runs]
    return np.stack(every).astype(int)


def transform_gain(runs: Sequence[Run], metric: str) -> np.ndarray:
    """(seeds, n) in -1, 0, 1: 1 where only the transformed box is right, -1 where only the default.

    See `stacked_hits` for the arguments.
    """
    return stacked_hits(runs, metric) - stacked_hits(runs, metric, transform=False)


def motion(run: Run) -> pd.DataFrame:
    """What theta does to the winning window under the true class, one row per test image.

    Returns:
        ``distance`` of theta to the identity, whose square L_theta sums (Eq. 2); ``area factor``,
        the absolute value of det A, above 1 where the window grew; ``shift`` in half windows.
    """
    theta = array(run.predictions(), "true_theta")[:, 0].reshape(-1, 2, 3)
    return pd.DataFrame(
        {
            "distance": np.linalg.norm(theta - np.eye(2, 3), axis=(1, 2)),
            "area factor": np.abs(np.linalg.det(theta[:, :, :2])),
            "shift": np.linalg.norm(theta[:, :, 2], axis=1),
        }
    )


def object_areas(truth: BoxList) -> np.ndarray:
    """(n,) the area of each image's largest ground-truth box, as a fraction of the image."""
    areas, counts = box_area(truth.boxes), np.diff(truth.offsets)
    largest = np.zeros(len(counts))
    if len(areas):
        largest[counts > 0] = np.maximum.reduceat(areas, truth.offsets[:-1][counts > 0])
    return largest


def hits_by_area(areas: np.ndarray, hit: Mapping[str, np.ndarray], groups: int = 5) -> pd.DataFrame:
    """The share of images that are right, from the smallest to the largest objects.

    Args:
        areas: (n,) of `object_areas`.
        hit: by name, (n,) booleans.
        groups: how many, of equally many images each.

    Returns:
        one row per group: ``smallest``, ``largest`` and ``median`` area in it, ``images``, and a
        fraction for each name.
    """
    order = np.array_split(np.argsort(areas, kind="stable"), groups)
    columns = {
        "smallest": [areas[some].min() for some in order],
        "median": [np.median(areas[some]) for some in order],
        "largest": [areas[some].max() for some in order],
        "images": [len(some) for some in order],
    }
    rates = {name: [float(right[some].mean()) for some in order] for name, right in hit.items()}
    return pd.DataFrame(columns | rates)


def kinds_of_misses(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """(n,) what is wrong with each image's box, one of `MISSES`.

    A wrong box is moved, in thought, onto the centre of the object that it overlaps most. If it is
    right there, it was *shifted*; if not, its size is wrong, and comparing the areas tells whether
    it is *too large* or *too small*. (Among the latter two are boxes of the wrong shape.)

    Args:
        boxes: (n, 4), ``xyxy`` in [0, 1].
        truth: at least one box per image.
    """
    objects = matched_objects(boxes, truth)
    centre = (objects[:, :2] + objects[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    moved = paired_iou(np.concatenate([centre - half, centre + half], axis=1), objects)
    right = box_hits(boxes, truth)
    larger = box_area(boxes) > box_area(objects)
    kind = np.select([right, moved >= IOU_THRESHOLD, larger], [0, 1, 2], 3)
    return np.array(MISSES)[kind]
