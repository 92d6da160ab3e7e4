"""Which objects are found, by their area: what Figures 6 and 8 of the paper plot.

Ten bins of equal width divide the range of the ground-truth areas. Bin by bin the paper counts the
images, those that the transformed box localizes (Top-1 Loc), and those that the default box of the
same location localizes (section IV-B). An image is counted once, by its largest object
(`cstn_lib.reproduction.comparison.object_areas`), although a box on any of its objects localizes
it. Areas are fractions of the image. Counts of several seeds are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cstn_lib.data.photos.wsol_metadata import read_wsol_metadata
from cstn_lib.evaluation import metrics
from cstn_lib.evaluation.boxes import BoxList, best_iou, box_area
from cstn_lib.evaluation.predictions import array
from cstn_lib.reproduction.comparison import object_areas, stacked_hits
from cstn_lib.reproduction.paper import FIGURE_6
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import required_runs
from cstn_lib.support.errors import InputError
from cstn_lib.support.project import user_path

WITH, WITHOUT = "with transform", "without transform"
"""Names of the two counts of localized images."""

HOW_TO_GET = (
    "Not drawn: give `data_root` the folder of the public WSOL metadata, a clone of the repository "
    "`clovaai/wsolevaluation` (see data/README.md)."
)
"""What to say where `published_boxes` finds none."""

DISPLAY_SIDE = 320
"""Pixels of the square that the authors resize every image and box to."""


def areas_of(runs: Sequence[Run]) -> np.ndarray:
    """(n,) areas of the test images' largest objects, as fractions of the image.

    Raises:
        InputError: the runs have different test images.
    """
    every = [object_areas(metrics.ground_truth(run.predictions())) for run in runs]
    if any(not np.array_equal(areas, every[0]) for areas in every):
        raise InputError("runs with different test images: expected seeds of one data set")
    return every[0]


def counts_by_area(runs: Sequence[Run], bins: int = 10) -> metrics.AreaHistogram:
    """One panel of Figure 6 or 8: images, and images localized `WITH` and `WITHOUT` transform.

    Args:
        runs: seeds of one experiment; the localized images are their mean.
    """
    areas = areas_of(runs)
    edges = metrics.area_histogram(areas, {}, bins).edges
    localized = {}
    for name, transform in ((WITHOUT, False), (WITH, True)):
        share = stacked_hits(runs, "top1_loc", transform=transform).mean(axis=0)
        localized[name] = np.histogram(areas, edges, weights=share)[0]
    return metrics.AreaHistogram(edges, np.histogram(areas, edges)[0], localized)


FIGURE_6_PANELS = dict(zip(FIGURE_6, ("cstn-level-4", "cstn-level-5", "cstn"), strict=True))
"""The experiment behind each panel: only one level votes, or both."""


def figure_6(runs: Sequence[Run]) -> dict[str, metrics.AreaHistogram]:
    """The counts of Figure 6, panel by panel; seeds are averaged.

    Raises:
        InputError: an experiment of `FIGURE_6_PANELS` is missing, or there are several data sets.
    """
    groups = required_runs(runs, tuple(FIGURE_6_PANELS.values()))
    return {panel: counts_by_area(groups[name]) for panel, name in FIGURE_6_PANELS.items()}


def figure_8(runs: Sequence[Run]) -> dict[str, metrics.AreaHistogram]:
    """The counts of Figure 8: one panel, named after the data set; seeds are averaged."""
    return {runs[0].experiment.data.name: counts_by_area(runs)}


def counts_table(panels: Mapping[str, metrics.AreaHistogram]) -> pd.DataFrame:
    """What panels plot, one row per panel and bin: ``area from``, ``area to``, and the counts."""
    parts = {}
    for name, histogram in panels.items():
        edges = {"area from": histogram.edges[:-1], "area to": histogram.edges[1:]}
        counts = {key: np.round(value, 2) for key, value in histogram.localized.items()}
        parts[name] = pd.DataFrame(edges | {"images": histogram.images} | counts)
        parts[name].index += 1
    return pd.concat(parts, names=["panel", "bin"])


def rates_by_area(areas: np.ndarray, right: np.ndarray, edges: np.ndarray) -> pd.DataFrame:
    """The share of images that are right, bin by bin.

    Args:
        areas: (n,) fractions of the image.
        right: (n,) or (seeds, n), 0 or 1.
        edges: (bins + 1,) of the bins; the last one is closed. Images outside are left out.

    Returns:
        a row for each bin that has images: ``area`` its middle, ``images``, ``rate`` the mean over
        seeds, and ``low`` and ``high`` of its 95 % interval, over images and seeds.
    """
    bins = pd.cut(areas, edges, right=False, labels=False)
    bins[areas == edges[-1]] = len(edges) - 2
    rows = []
    for at, middle in enumerate((edges[:-1] + edges[1:]) / 2):
        some = np.atleast_2d(right)[:, bins == at]
        images = some.shape[1]
        if images:
            rows.append((middle, images, *metrics.mean_interval(some.astype(bool))))
    return pd.DataFrame(rows, columns=["area", "images", "rate", "low", "high"])


def by_half(areas: np.ndarray, values: np.ndarray, groups: int = 2) -> dict[str, metrics.Interval]:
    """A mean over the images with the smaller objects, over those with the larger, and their gap.

    The median area divides the images, or with more `groups` of equally many images, the first of
    them is compared with the last. Intervals are over images and seeds.

    Args:
        areas: (n,) fractions of the image.
        values: (seeds, n) as of `mean_interval`, such as one network's hits less another's.

    Returns:
        ``smaller``, ``larger``, and ``larger less smaller``.
    """
    order, count = np.argsort(areas, kind="stable"), len(areas)
    smaller = order[: max(1, count // groups)]
    larger = order[min(count - 1, count * (groups - 1) // groups) :]
    low, high = (metrics.mean_interval(values[:, some]) for some in (smaller, larger))
    # weights that make a mean over both groups' images the difference of the groups' means
    both = len(smaller) + len(larger)
    sign = np.zeros(count)
    sign[smaller] -= both / len(smaller)
    sign[larger] += both / len(larger)
    # what both share drops out; left in, it would count twice in a sample of unequal groups
    gaps = ((values - (low.mean + high.mean) / 2) * sign)[:, np.union1d(smaller, larger)]
    gap = metrics.mean_interval(gaps, most=2 * np.abs(values).max())
    return {"smaller": low, "larger": high, "larger less smaller": gap}


def level_hits(table: pd.DataFrame) -> np.ndarray:
    """(n, S) whether each level's own best box under the true class is right."""
    return best_iou(array(table, "level_box"), metrics.ground_truth(table)) >= metrics.IOU_THRESHOLD


def selection(runs: Sequence[Run]) -> dict[str, float]:
    """The share of test images where a box is right, each line allowed more choice than the winner.

    Of a network with levels that vote, in [0, 1]: the winning box; the better of the levels' own
    best boxes; one of the five best; any box of the image. Always under the true class.
    """
    right = {
        "the winner (GT-Known Loc)": stacked_hits(runs, "gt_known_loc"),
        "the best level's own best": [level_hits(run.predictions()).any(axis=1) for run in runs],
        "one of the top five": stacked_hits(runs, "top5_box_loc"),
        "any box of the image (recall)": stacked_hits(runs, "any_box"),
    }
    return {name: float(np.mean(some)) for name, some in right.items()}


def effective_bins(counts: np.ndarray) -> float:
    """How many equally full bins have the entropy of these: all of them if they are uniform."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def published_boxes(data_root: object, dataset: str) -> BoxList | None:
    """The test boxes of a real data set from its published annotations, without any image.

    Args:
        data_root: a folder in the layout of `cstn_lib.data.photos.wsol_metadata`, as
            `cstn_lib.support.project.user_path` takes it.
        dataset: ``"CUB"`` (CUB-200-2011 test) or ``"ILSVRC"`` (its validation set).

    Returns:
        boxes ``xyxy`` in [0, 1]; None where `data_root` is empty or something else, such as the
        archive of another data set.

    Raises:
        InputError: the annotations are there, but not as expected.
    """
    root = user_path(data_root)
    found = root and read_wsol_metadata(root, dataset, "test")
    return BoxList(found.boxes, found.box_offsets) if found else None


def pixel_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (m,) in px² as the authors have them: boxes (m, 4) rounded to pixels of 320²."""
    return box_area(np.round(boxes * DISPLAY_SIDE))
